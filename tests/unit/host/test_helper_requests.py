"""Requests that a helper carries out, each with its own answer."""

from pathlib import Path

import pytest
from geosched.ipc.messages.helper import EndTrees, FindUsers, LostRun, UsersFound
from geosched.ipc.paths import Runtime
from geosched.workers import helper
from geosched.workers.helper import carry_out
from geosched.workers.host.cgroups import TREE, Containment

GIVEN = ("mark", Containment(TREE), Runtime(Path("/nowhere")))


def test_a_name_of_no_user_is_not_found() -> None:
    asked = FindUsers(("root", "nobody-of-that-name"))
    assert carry_out(asked, *GIVEN) == UsersFound({"root": 0})


def test_a_fault_of_other_requests_is_no_name_of_no_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object, **__: object) -> bool:
        raise KeyError("a fault of ours")

    monkeypatch.setattr(helper, "end_trees", fails)
    with pytest.raises(KeyError):
        carry_out(EndTrees((LostRun("r", None, ""),), 1), *GIVEN)
