"""Whatever bytes come to an edge, they are read, or are that edge's own error."""

from collections.abc import Callable
from pathlib import Path

import pytest

from . import answers, configuration, files, first_run, wire
from .conftest import INPUTS, SEED
from .oracle import Target, fuzz

TARGETS = (
    *wire.TARGETS,
    *files.TARGETS,
    *answers.TARGETS,
    *configuration.TARGETS,
    *first_run.TARGETS,
)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name.replace(" ", "-"))
def test_bytes_are_read_or_are_the_edges_own_error(
    target: Target, memory_path: Path, record_property: Callable[[str, object], None]
) -> None:
    inputs = max(len(target.samples), int(INPUTS * target.share))
    record_property("fuzz", str(fuzz(target, SEED, inputs, memory_path)))
