"""Requests that a helper carries out, each with its own answer."""

import os
from pathlib import Path

import pytest
from geosched.ipc.messages.helper import EndTrees, LostRun, NameUser, UserNamed
from geosched.ipc.paths import Runtime
from geosched.workers import helper
from geosched.workers.helper import carry_out
from geosched.workers.host.cgroups import TREE, Containment

GIVEN = ("mark", Containment(TREE), Runtime(Path("/nowhere")))


def test_a_user_without_a_name_has_none() -> None:
    assert carry_out(NameUser(2**31 - 7), *GIVEN) == UserNamed("")
    assert carry_out(NameUser(os.getuid()), *GIVEN) != UserNamed("")


def test_a_fault_of_other_requests_is_no_user_without_a_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object, **__: object) -> bool:
        raise KeyError("a fault of ours")

    monkeypatch.setattr(helper, "end_trees", fails)
    with pytest.raises(KeyError):
        carry_out(EndTrees((LostRun("r", None, ""),), 1), *GIVEN)
