"""What a worker is told to run (INTERFACE, "What a script sees")."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from geosched.ipc.messages.runs import Conditions, Limits, Run
from geosched.supervisor.config.sections import ScriptSettings
from geosched.supervisor.core.lifecycle import new_run_id
from geosched.supervisor.core.model import OpenRun
from geosched.supervisor.runs.run_order import (
    DEFAULT_PATH,
    SCRIPT_ENVIRONMENT_ALLOWED,
    TITLE_CHARS_MAX,
    order,
    output_path,
)
from hypothesis import given
from hypothesis import strategies as st
from support.build import GENERATION, NOW_US, action

RUN_ID = new_run_id(GENERATION, "a", 3)
LOG_DIR = Path("/var/log/geosched")


def ordered(
    *command: str, inherited: dict[str, str] | None = None, script: Any = None, **changes: Any
) -> Run:
    settings = ScriptSettings(command=("/bin/block", *command), **(script or {}))
    return order(
        action(**changes),
        OpenRun(RUN_ID, NOW_US),
        3,
        settings,
        instance="boot-and-place",
        output_path=output_path(LOG_DIR, RUN_ID),
        inherited=inherited or {},
    )


@pytest.mark.parametrize(
    ("part", "becomes"),
    [
        ("{id}", "a"),
        ("{type}", "default"),
        ("--apps={apps}", "--apps=Chrome,Steam"),
        ("{from}", "2026-11-23T07:00:00.000Z"),
        ("{to}", "2026-11-23T09:00:00.000Z"),
        ("{run}", RUN_ID),
        ("{attempt}", "3"),
        ("{id}-{id}", "a-a"),
        ("{unknown} {} {ID} {{id}}", "{unknown} {} {ID} {a}"),
        ("$HOME `id` ; rm -rf", "$HOME `id` ; rm -rf"),
    ],
)
def test_placeholders_are_replaced_inside_arguments(part, becomes):
    assert ordered(part).command == ("/bin/block", becomes)


def test_a_value_that_looks_like_a_placeholder_stays_as_it_is():
    run = ordered("{id}", "{apps}", action_id="{apps}", app_names=("{run}", "{id}"))
    assert run.command[1:] == ("{apps}", "{run},{id}")


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=50))
def test_no_id_becomes_more_than_one_argument(action_id):
    run = ordered("--id={id}", action_id=action_id)
    assert run.command == ("/bin/block", f"--id={action_id}")
    assert run.environment["GEOSCHED_ACTION_ID"] == action_id
    assert json.loads(run.input)["id"] == action_id


def test_of_the_daemons_environment_only_an_allow_list_passes():
    refused = dict.fromkeys(["GEOSCHED_TOKEN", "NOTIFY_SOCKET", "LD_PRELOAD", "PYTHONPATH"], "x")
    allowed = {name: f"of-{name}" for name in SCRIPT_ENVIRONMENT_ALLOWED}
    environment = ordered(inherited=refused | allowed).environment
    assert {k: v for k, v in environment.items() if not k.startswith("GEOSCHED_")} == allowed
    assert "GEOSCHED_TOKEN" not in environment


def test_without_a_path_there_is_a_default_one():
    assert ordered().environment["PATH"] == DEFAULT_PATH


def test_the_environment_tells_what_is_run():
    environment = ordered(app_names=("Chrome", 'a "b", ü')).environment
    assert environment == {
        "PATH": DEFAULT_PATH,
        "GEOSCHED_ACTION_ID": "a",
        "GEOSCHED_ACTION_TYPE": "default",
        "GEOSCHED_APP_NAMES": environment["GEOSCHED_APP_NAMES"],
        "GEOSCHED_FROM_DATE": "2026-11-23T07:00:00.000Z",
        "GEOSCHED_TO_DATE": "2026-11-23T09:00:00.000Z",
        "GEOSCHED_RUN_ID": RUN_ID,
        "GEOSCHED_ATTEMPT": "3",
        "GEOSCHED_INSTANCE": "boot-and-place",
    }
    assert json.loads(environment["GEOSCHED_APP_NAMES"]) == ["Chrome", 'a "b", ü']


@pytest.mark.parametrize(
    ("args", "value"), [("", None), ('{"strict":true}', {"strict": True}), ("[1,2]", [1, 2])]
)
def test_standard_input_holds_the_action_as_one_json_document(args, value):
    document = ordered(args=args, type="block").input
    assert document.endswith(b"\n")
    assert json.loads(document) == {
        "id": "a",
        "fromDate": "2026-11-23T07:00:00.000Z",
        "toDate": "2026-11-23T09:00:00.000Z",
        "shouldBeExecuted": True,
        "appNames": ["Chrome", "Steam"],
        "type": "block",
        "args": value,
        "runId": RUN_ID,
        "attempt": 3,
    }


def test_the_output_is_kept_under_our_own_id_whatever_the_actions_id_is():
    run = ordered(action_id="../../etc/passwd")
    assert Path(run.output_path) == LOG_DIR / f"{RUN_ID}.log"


def test_a_long_id_is_cut_in_the_title_only():
    run = ordered("{id}", action_id="x" * 200, type="block")
    assert run.title == f"geosched: {'x' * TITLE_CHARS_MAX} (block)"
    assert run.command[1] == "x" * 200


def test_the_scripts_settings_reach_the_worker():
    run = ordered(
        script={
            "stop_signal": 2,
            "stop_grace_seconds": 7.0,
            "watchdog_seconds": 8.0,
            "heartbeat_timeout_seconds": 9.0,
            "output_max_bytes": 4096,
        }
    )
    assert (run.run_id, run.stop_signal, run.stop_grace_seconds) == (RUN_ID, 2, 7.0)
    assert (run.watchdog_seconds, run.heartbeat_seconds, run.output_bytes_max) == (8.0, 3.0, 4096)


def test_a_script_of_another_user_is_not_told_who_the_daemon_is():
    daemon = {"HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "/bin/sh", "TZ": "UTC"}
    personal = daemon.keys() - {"TZ"}
    assert not personal & ordered(inherited=daemon, script={"user": "nobody"}).environment.keys()
    assert personal <= ordered(inherited=daemon, script={"group": "users"}).environment.keys()


def test_variables_of_the_settings_come_before_inherited_ones_and_after_our_own():
    env = {"TZ": "CET", "COLOUR": "blue", "GEOSCHED_RUN_ID": "other"}
    environment = ordered(inherited={"TZ": "UTC"}, script={"env": env}).environment
    assert (environment["TZ"], environment["COLOUR"]) == ("CET", "blue")
    assert environment["GEOSCHED_RUN_ID"] == RUN_ID


def test_what_is_not_set_leaves_a_script_as_the_daemon_is():
    assert ordered().conditions == Conditions()


def test_every_condition_of_the_settings_reaches_the_worker():
    limits = Limits(
        address_space_bytes=1, open_files=2, processes=3, file_size_bytes=4, cpu_seconds=5.0
    )
    told = ordered(
        script={
            "user": "nobody",
            "group": "users",
            "cwd": "/srv",
            "umask": 0o27,
            "nice": -6,
            "oom_score_adj": 7,
            "limits": limits,
            "no_new_privs": True,
        }
    ).conditions
    expected = ("nobody", "users", "/srv", 0o27, -6, 7, limits, True)
    assert msgspec.structs.astuple(told) == expected
