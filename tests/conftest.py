"""What holds for all tests, in each process that makes some of them."""

from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from support import gate
from support.signals import hand_down_the_usual


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, Any, Any]:
    return (yield from gate.guarded(config))


def pytest_configure() -> None:
    hand_down_the_usual()
    # How long an example takes is the host's affair: it may be busy.
    settings.register_profile(
        "busy host", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("busy host")
