"""Each fact about a host is judged by what it means for windows."""

import pytest
from geosched.ipc.instants import SECOND_US, parse_instant
from geosched.ipc.messages.first_run import Finding, State
from geosched.supervisor.startup.first_run import diagnosis
from geosched.supervisor.startup.first_run.diagnosis import (
    CAPABILITIES,
    Cgroups,
    Clock,
    Init,
    Limits,
    Place,
    Rights,
    Rtc,
)

FINE, WORTH_KNOWING, TO_DO = State.FINE, State.WORTH_KNOWING, State.TO_DO
RELEASED_US = parse_instant("2026-11-23T00:00:00.000Z")
NOW_US = RELEASED_US + 86_400 * SECOND_US
GIB = 1024**3
RIGHT = Clock(NOW_US, RELEASED_US, True, False, 600.0)
LIMITS = Limits(65_536, 28_000, 32, 64 * 1024**2)
PLACE = Place("state_dir", "/var/lib", "ext4", frozenset({"rw"}), "ssd", GIB, True, 1024)
UNIT = Init("systemd", "/usr/lib/systemd/system/geosched.service", True, "systemctl start geosched")


def only(findings: list[Finding]) -> Finding:
    (found,) = findings
    return found


def test_a_kernel_without_a_service_of_the_daemon_is_to_be_changed() -> None:
    assert diagnosis.of_kernel("6.12", "").state is FINE
    refused = diagnosis.of_kernel("5.2", "cannot use pidfd_open")
    assert refused.state is TO_DO
    assert refused.seen == "Linux 5.2: cannot use pidfd_open"


@pytest.mark.parametrize(
    ("rights", "state", "seen"),
    [
        (Rights("root", True), FINE, "root, with all"),
        (Rights("ann", False), FINE, "user ann, not root"),
        (Rights("root", True, ("CAP_KILL", "CAP_CHOWN")), WORTH_KNOWING, "root without CAP_KILL, "),
        (Rights("ann", False, (), "root"), TO_DO, "the daemon here is root's, and this is ann"),
        (Rights("root", True, (), "ann"), WORTH_KNOWING, "the daemon here is ann's"),
    ],
)
def test_rights_are_those_of_the_daemon_or_the_rest_is_seen_wrong(
    rights: Rights, state: State, seen: str
) -> None:
    found = diagnosis.of_rights(rights)
    assert found.state is state
    assert found.seen.startswith(seen)


def test_the_rights_that_are_asked_for_have_the_numbers_of_the_kernel() -> None:
    """From `linux/capability.h`."""
    numbers = [number for number, _ in CAPABILITIES.values()]
    assert CAPABILITIES["CAP_SYS_PTRACE"][0] == 19
    assert len(set(numbers)) == len(CAPABILITIES)


@pytest.mark.parametrize(
    ("found", "state", "todo"),
    [
        (Cgroups("cgroup2", ["cgroup2"], True), FINE, ""),
        (Cgroups("cgroup1", ["cgroup1"], True), FINE, ""),
        (Cgroups("tree", [], True), WORTH_KNOWING, "have it mounted at boot"),
        (Cgroups("tree", ["cgroup2"], True), WORTH_KNOWING, "let this container"),
        (Cgroups("tree", ["cgroup2"], False), WORTH_KNOWING, "run the daemon as root"),
    ],
)
def test_without_control_groups_it_is_said_what_may_outlive_a_window(
    found: Cgroups, state: State, todo: str
) -> None:
    judged = diagnosis.of_cgroups(found)
    assert judged.state is state
    assert judged.todo.startswith(todo)
    assert ("outlive" in judged.means) == (state is WORTH_KNOWING)


def test_a_script_that_cannot_be_held_begins_later() -> None:
    assert diagnosis.of_ptrace("", 1).state is FINE
    assert "later" in diagnosis.of_ptrace("Operation not permitted", 0).means
    assert "yama" in diagnosis.of_ptrace("Operation not permitted", 2).todo


@pytest.mark.parametrize(
    ("clock", "state", "means"),
    [
        (RIGHT, FINE, "at their instants"),
        (RIGHT._replace(synchronised=False), WORTH_KNOWING, "as early or late as it is wrong"),
        (RIGHT._replace(synchronised=False, must_synchronise=True), TO_DO, "nothing starts"),
        (
            RIGHT._replace(synchronised=False, wall_us=parse_instant("2000-01-01T00:00:00Z")),
            TO_DO,
            "nothing starts or ends by it for 600 s",
        ),
        (RIGHT._replace(wall_us=0), FINE, "at their instants"),  # the kernel's word counts
        (RIGHT._replace(wall_us=-5, synchronised=False), TO_DO, "nothing starts"),
    ],
)
def test_a_clock_is_judged_as_the_daemon_judges_it(clock: Clock, state: State, means: str) -> None:
    found = diagnosis.of_clock(clock)
    assert found.state is state
    assert means in found.means


@pytest.mark.parametrize(
    ("rtc", "state", "seen"),
    [
        (Rtc("rtc0", NOW_US), FINE, "rtc0 reads 2026-11-24"),
        (None, WORTH_KNOWING, "this host has no clock that runs without power"),
        (Rtc("rtc0", None), WORTH_KNOWING, "rtc0 cannot be read"),
        (Rtc("rtc0", parse_instant("2000-01-01T00:00:00Z")), TO_DO, "rtc0 reads 2000-01-01"),
        (Rtc("rtc0", NOW_US + 3600 * SECOND_US), TO_DO, "rtc0 is 3600 s ahead"),
        (Rtc("rtc0", NOW_US - 61 * SECOND_US), TO_DO, "rtc0 is 61 s behind"),
        (Rtc("rtc0", NOW_US + 3600 * SECOND_US, local=True), WORTH_KNOWING, "rtc0 keeps local"),
    ],
)
def test_the_clock_of_the_next_boot_is_judged(rtc: Rtc | None, state: State, seen: str) -> None:
    found = diagnosis.of_rtc(rtc, RIGHT)
    assert found.state is state
    assert found.seen.startswith(seen)


def test_a_clock_that_nobody_keeps_says_nothing_about_that_of_the_hardware() -> None:
    rtc = Rtc("rtc0", NOW_US + 3600 * SECOND_US)
    assert diagnosis.of_rtc(rtc, RIGHT._replace(synchronised=False)).state is FINE


@pytest.mark.parametrize(
    ("changes", "state", "seen"),
    [
        ({"open_files": 70, "runs": 0}, TO_DO, "70 open files (ulimit -Hn) serve no run"),
        ({"runs": 7}, WORTH_KNOWING, "65536 open files (ulimit -Hn) are enough for 7 runs"),
        ({"map_refused": "it does not fit"}, TO_DO, "it does not fit"),
        ({"file_bytes": 1024}, TO_DO, "files may have 1024 bytes"),
        ({"processes": 50}, WORTH_KNOWING, "this user may have 50 processes"),
    ],
)
def test_a_limit_that_is_too_low_is_named(
    changes: dict[str, object], state: State, seen: str
) -> None:
    assert [*diagnosis.of_limits(LIMITS)] == []
    found = only([*diagnosis.of_limits(Limits(**LIMITS._asdict() | changes))])
    assert found.state is state
    assert found.seen.startswith(seen)


@pytest.mark.parametrize(
    ("available", "state"),
    [(8 * GIB, FINE), (60_000_000, WORTH_KNOWING), (30_000_000, TO_DO), (None, WORTH_KNOWING)],
)
def test_memory_is_compared_with_what_the_runs_take(available: int | None, state: State) -> None:
    assert diagnosis.of_memory(available, 32).state is state


@pytest.mark.parametrize(
    ("changes", "state", "means"),
    [
        ({}, FINE, "outlives a power cut"),
        ({"kind": "nfs4"}, TO_DO, "no daemon starts"),
        ({"kind": "tmpfs"}, TO_DO, "may lose daemonDB"),
        ({"options": frozenset({"ro"})}, TO_DO, "nothing starts"),
        ({"options": frozenset({"rw", "nobarrier"})}, TO_DO, "may damage daemonDB"),
        ({"kind": "vfat"}, TO_DO, "knows no owners"),
    ],
)
def test_a_file_system_is_judged_by_what_a_power_cut_does(
    changes: dict[str, object], state: State, means: str
) -> None:
    place = Place(**PLACE._asdict() | changes)
    found = diagnosis.of_file_system(place, frozenset({"nfs4"}), frozenset({"tmpfs"}))
    assert found.state is state
    assert means in found.means


def test_sockets_on_btrfs_are_worth_knowing() -> None:
    assert [*diagnosis.of_runtime_dir(PLACE)] == []
    assert only([*diagnosis.of_runtime_dir(PLACE._replace(kind="btrfs"))]).state is WORTH_KNOWING


@pytest.mark.parametrize("medium", ["sd", "emmc", "raw flash", "ssd", "disk", ""])
def test_only_an_sd_card_is_no_place_to_rely_on(medium: str) -> None:
    found = diagnosis.of_flash(PLACE._replace(medium=medium))
    assert found.state is (WORTH_KNOWING if medium == "sd" else FINE)


@pytest.mark.parametrize(
    ("changes", "state", "seen"),
    [
        ({"free_bytes": 10}, TO_DO, "state_dir: the file system of /var/lib is full"),
        ({"has_inodes": False}, TO_DO, "state_dir: the file system of /var/lib is out of inodes"),
        ({"bytes_min": 2 * GIB}, TO_DO, "state_dir (/var/lib) has 1024 MiB free, and needs 2048"),
        ({"key": "log_dir", "bytes_min": 2 * GIB}, WORTH_KNOWING, "log_dir (/var/lib) has 1024"),
    ],
)
def test_a_disk_without_room_is_named_with_what_is_lost(
    changes: dict[str, object], state: State, seen: str
) -> None:
    assert [*diagnosis.of_disk([PLACE], 1024)] == []
    found = only([*diagnosis.of_disk([Place(**PLACE._asdict() | changes)], 1024)])
    assert found.state is state
    assert found.seen.startswith(seen)


@pytest.mark.parametrize(
    ("init", "state"),
    [
        (UNIT, FINE),
        (UNIT._replace(enabled=False), TO_DO),
        (UNIT._replace(restarts=False), WORTH_KNOWING),
        (UNIT._replace(unit="", enabled=False), TO_DO),
        (UNIT._replace(unit="", enabled=False, container=True), WORTH_KNOWING),
    ],
)
def test_an_init_that_starts_no_daemon_is_to_be_told(init: Init, state: State) -> None:
    assert diagnosis.of_init(init, root=True).state is state


def test_who_is_not_root_needs_no_unit() -> None:
    assert diagnosis.of_init(UNIT._replace(unit="", enabled=False), root=False).state is (
        WORTH_KNOWING
    )


def test_a_daemon_that_does_not_run_yet_is_no_fault() -> None:
    assert diagnosis.of_daemon(True, "x").state is FINE
    assert diagnosis.of_daemon(False, "geoschedd").todo == "geoschedd"
    assert diagnosis.of_daemon(None, "x").state is WORTH_KNOWING


def test_what_is_fine_has_a_meaning_and_what_is_not_something_to_do() -> None:
    """A sample of each subject, as a person reads it."""
    found = [
        diagnosis.of_kernel("6.12", "refused"),
        diagnosis.of_cgroups(Cgroups("tree", [], True)),
        diagnosis.of_clock(RIGHT._replace(synchronised=False)),
        diagnosis.of_rtc(None, RIGHT),
        diagnosis.of_init(UNIT._replace(enabled=False), root=True),
        diagnosis.of_memory(1, 1),
        *diagnosis.of_disk([PLACE._replace(free_bytes=0)], 1024),
    ]
    assert all(each.seen and each.means and each.todo for each in found)
