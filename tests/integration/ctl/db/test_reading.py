"""`geosched-ctl db stats` and `check`, beside a daemon and without one."""

import json
from typing import Any

from geosched.supervisor.store.tables import migrations
from geosched.supervisor.store.tables.codec import action_key
from support.db import place
from support.layout import zero
from support.store import flip, on_disk

# --- stats -------------------------------------------------------------------------------


def test_stats_are_of_the_store_that_is_there(either):
    found = either.json("db", "stats")
    actions = 60 if either.process else 20
    assert found["tables"]["actions"]["rows"] == actions
    assert found["directory"] == str(place(either))
    assert found["format"] == migrations.FORMAT
    assert 0 < found["usedBytes"] < found["mapBytes"]
    assert found["freeBytes"] >= 0
    assert found["allocatedBytes"] <= found["mapBytes"] + 4096
    assert sum(table["bytes"] for table in found["tables"].values()) < found["usedBytes"]
    assert found["oldest"]["due"] is not None
    assert found["lastTransaction"] > 0


def test_stats_are_shown_in_units_or_as_json(stopped):
    shown = stopped.ctl("db", "stats").stdout
    assert "TABLE" in shown
    assert "MiB (" in shown
    (line,) = stopped.ctl("db", "stats", "-o", "jsonl").stdout.splitlines()
    assert json.loads(line) == stopped.json("db", "stats")
    assert json.loads(line)["schemaVersion"] == 1


# --- check -------------------------------------------------------------------------------


def test_a_store_without_fault_is_good(either):
    assert either.json("db", "check") == {
        "schemaVersion": 1,
        "good": True,
        "condition": "sound",
        "detail": "",
        "damaged": [],
        "faults": [],
    }
    assert either.ctl("db", "check").stdout.split() == ["database", "good"]
    assert not list((either.root / "state").glob("daemondb.copy-*"))


def test_a_damaged_value_is_named_and_exit_1(stopped):
    key = action_key("action 7")
    flip("actions", key, stopped.root / "state")
    done = stopped.ctl("db", "check", "-o", "json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["damaged"] == [{"table": "actions", "key": key.hex()}]
    assert done.stderr == "geosched-ctl: the database is not as it should be\n"
    assert f"damaged: actions {key.hex()}" in stopped.ctl("db", "check").stdout


def test_a_contradiction_between_tables_is_named_and_exit_1(stopped):
    def lose_first(txn: Any, handle: Any) -> None:
        with txn.cursor(handle) as at:
            assert at.first()
            at.delete()

    on_disk(stopped.root / "state", "due", lose_first)
    done = stopped.ctl("db", "check", "-o", "json")
    assert done.returncode == 1
    (fault,) = json.loads(done.stdout)["faults"]
    assert fault.endswith("is not in due")


def test_a_damaged_page_is_named_and_exit_1(stopped):
    zero(place(stopped) / "data.mdb", 0)
    done = stopped.ctl("db", "check", "-o", "json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["good"], found["condition"]) == (False, "damaged")
    assert found["detail"]
