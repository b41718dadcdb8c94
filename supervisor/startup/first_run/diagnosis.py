"""Diagnosis of a host: what each of its facts means for windows, and what to do about it. Pure.

A function a subject: facts in, findings out. They are gathered by `facts.py`; those about the
backend and about certificates are judged in `backend_diagnosis.py`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ....ipc.instants import SECOND_US, format_instant
from ....ipc.messages.first_run import Finding, State

FINE, WORTH_KNOWING, TO_DO = State.FINE, State.WORTH_KNOWING, State.TO_DO

_MIB = 1024**2
#: What a daemon at rest takes, and what a run adds (docs/performance.md).
DAEMON_BYTES = 40_000_000
RUN_BYTES = 3_600_000
#: A clock of the hardware that is further from a synchronised one is wrong: it drifts by seconds a
#: day, and is set by the kernel every eleven minutes.
RTC_OFF_SECONDS_MAX = 60.0
#: Below this, output of runs may soon be lost.
OUTPUT_BYTES_MIN = 16 * _MIB
_NO_OTHER_USER = 'scripts cannot be other users, and exchanges fail unless backend.user = "root"'
#: Rights of root by their names and numbers, and what is lost without them (docs/design.md, "Who
#: needs which of root's rights").
CAPABILITIES = {
    "CAP_KILL": (5, "scripts of other users cannot be ended, and exchanges fail"),
    "CAP_SYS_PTRACE": (19, "what a lost run left of other users is found by its group alone"),
    "CAP_SETUID": (7, _NO_OTHER_USER),
    "CAP_SETGID": (6, _NO_OTHER_USER),
    "CAP_CHOWN": (0, "nothing can be given to the user of a script"),
    "CAP_DAC_OVERRIDE": (1, "files of other users, scripts among them, may be out of reach"),
    "CAP_SYS_RESOURCE": (24, "no script gets a limit above the daemon's own"),
    "CAP_SYS_NICE": (23, "no script gets a nice below the daemon's own"),
}
_WITHOUT_OWNERS = frozenset({"vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk"})
_UNBARRED = frozenset({"nobarrier", "barrier=0"})


def of_kernel(release: str, refused: str) -> Finding:
    """Judge the services of the kernel; `refused` names the first that is not to be had."""
    if refused:
        return Finding(
            "kernel",
            TO_DO,
            f"Linux {release}: {refused}",
            "no daemon starts here, so no window is kept",
            "use Linux 5.4 or later, and allow this call in the unit, the container or the chroot",
        )
    return Finding("kernel", FINE, f"Linux {release}", "it has all that the daemon needs")


class Rights(NamedTuple):
    """The user of this process, the rights of root that it lacks, and the user of the daemon that
    has worked here, where that is another."""

    user: str
    root: bool
    missing: tuple[str, ...] = ()
    daemon_user: str = ""


def of_rights(rights: Rights) -> Finding:
    if rights.daemon_user:
        return Finding(
            "rights",
            TO_DO if not rights.root else WORTH_KNOWING,
            f"the daemon here is {rights.daemon_user}'s, and this is {rights.user}",
            "what follows is seen with other rights than the daemon has",
            f"run this as {rights.daemon_user}",
        )
    if not rights.root:
        return Finding(
            "rights",
            FINE,
            f"user {rights.user}, not root",
            "scripts run as this user, and cannot be another; processes of others stay as they are",
        )
    if rights.missing:
        return Finding(
            "rights",
            WORTH_KNOWING,
            f"root without {', '.join(rights.missing)}",
            "; ".join(dict.fromkeys(CAPABILITIES[name][1] for name in rights.missing)),
            "let the container or the unit keep these (--cap-add, CapabilityBoundingSet=)",
        )
    return Finding("rights", FINE, "root, with all that it needs", "scripts can run as any user")


class Cgroups(NamedTuple):
    """The containment that a daemon has here (`cgroup2`, `cgroup1` or `tree`), and the
    hierarchies that are mounted."""

    kind: str
    mounted: Sequence[str]
    root: bool


def of_cgroups(found: Cgroups) -> Finding:
    if found.kind != "tree":
        return Finding(
            "cgroups",
            FINE,
            f"a group can be made ({found.kind})",
            "at the end of its window nothing that a script started is missed",
        )
    means = (
        "a process that leaves its script's session and wipes its environment may outlive the"
        " window; all others are found by their parents and their mark"
    )
    if found.mounted and found.root:
        seen = f"no group can be made, although {found.mounted[0]} is mounted"
        todo = "let this container write its groups, or run the daemon outside of it"
    elif found.mounted:
        seen = "this user can make no group"
        todo = "run the daemon as root, or by a unit of systemd with Delegate=yes"
    else:
        seen = "no hierarchy of control groups is mounted"
        todo = "have it mounted at boot: mount -t cgroup2 none /sys/fs/cgroup"
    return Finding("cgroups", WORTH_KNOWING, seen, means, todo)


def of_ptrace(refused: str, yama_scope: int | None) -> Finding:
    """Judge whether a script can be held before its first instruction."""
    if not refused:
        seen = "a script can be held before its first instruction"
        return Finding("ptrace", FINE, seen, "it begins at its instant, with its program loaded")
    todo = "allow ptrace in the seccomp profile or the security module, if that matters"
    if yama_scope is not None and yama_scope >= 2:
        todo = "sysctl kernel.yama.ptrace_scope=1, if that matters"
    return Finding(
        "ptrace",
        WORTH_KNOWING,
        f"a script cannot be held before its first instruction: {refused}",
        "its program is loaded only at its instant, so it begins later by that time",
        todo,
    )


class Clock(NamedTuple):
    """The wall clock, the day this version was made, and the settings that say when a clock is
    trusted."""

    wall_us: int
    released_us: int
    synchronised: bool
    must_synchronise: bool
    wait_seconds: float


def of_clock(clock: Clock) -> Finding:
    told = format_instant(max(0, clock.wall_us))
    held_back = (
        f"nothing starts or ends by it for {clock.wait_seconds:g} s after each start of the daemon,"
        " and then windows are kept by a wrong clock"
    )
    keeper = "run chrony, ntpd or systemd-timesyncd"
    if clock.synchronised:
        seen = f"it reads {told}, and the kernel calls it synchronised"
        return Finding("clock", FINE, seen, "windows begin and end at their instants")
    if clock.wall_us < clock.released_us:
        seen = f"it reads {told}, earlier than this version was made"
        return Finding("clock", TO_DO, seen, held_back, f"set it, and {keeper}")
    if clock.must_synchronise:
        seen = f"it reads {told}, and is not synchronised, as clock_must_sync asks"
        return Finding("clock", TO_DO, seen, held_back, keeper)
    return Finding(
        "clock",
        WORTH_KNOWING,
        f"it reads {told}, and nobody keeps it right",
        "windows begin and end as early or late as it is wrong",
        f"{keeper}; its first answer may take a minute",
    )


class Rtc(NamedTuple):
    """The clock of the hardware. `rtc_us` is None where it cannot be read; `local`: it keeps local
    time (`/etc/adjtime`)."""

    device: str
    rtc_us: int | None
    local: bool = False


def of_rtc(rtc: Rtc | None, clock: Clock) -> Finding:
    """Judge the clock by which the next boot begins; None: this host has none."""
    begins = (
        "after a power cut the clock begins wrong, and nothing starts or ends by it until it is"
        f" set, or {clock.wait_seconds:g} s are over"
    )
    if rtc is None:
        return Finding(
            "rtc",
            WORTH_KNOWING,
            "this host has no clock that runs without power",
            begins,
            "keep the last time on disk (systemd-timesyncd and fake-hwclock do), and set"
            " daemon.clock_must_sync where that must not be believed",
        )
    if rtc.rtc_us is None:
        seen = f"{rtc.device} cannot be read"
        return Finding("rtc", WORTH_KNOWING, seen, begins, "hwclock --show says why")
    told = format_instant(max(0, rtc.rtc_us))
    if rtc.rtc_us < clock.released_us:
        return Finding(
            "rtc",
            TO_DO,
            f"{rtc.device} reads {told}, earlier than this version was made",
            begins,
            "once the clock is right: hwclock --systohc; if it forgets, its battery is empty",
        )
    if rtc.local:
        return Finding(
            "rtc",
            WORTH_KNOWING,
            f"{rtc.device} keeps local time",
            "a boot after a change of zone or of summer time may begin an hour off",
            "timedatectl set-local-rtc 0, or UTC in /etc/adjtime",
        )
    off_seconds = (rtc.rtc_us - clock.wall_us) / SECOND_US
    if clock.synchronised and abs(off_seconds) > RTC_OFF_SECONDS_MAX:
        return Finding(
            "rtc",
            TO_DO,
            f"{rtc.device} is {abs(off_seconds):.0f} s {'ahead' if off_seconds > 0 else 'behind'}",
            "after a boot windows are kept by a wrong clock until it is set over the network",
            "hwclock --systohc",
        )
    return Finding("rtc", FINE, f"{rtc.device} reads {told}", "after a boot the clock is right")


class Limits(NamedTuple):
    """Limits of this process. `runs` fit into `open_files`, 0 where not even one does;
    `map_refused` says why the map of daemonDB does not fit the address space."""

    open_files: int
    runs: int
    max_running: int
    map_bytes: int
    map_refused: str = ""
    file_bytes: int | None = None
    processes: int | None = None


def of_limits(limits: Limits) -> Iterator[Finding]:
    means = "no daemon starts, or it cannot write: no window is kept"
    if not limits.runs:
        seen = f"{limits.open_files} open files (ulimit -Hn) serve no run"
        yield Finding("limits", TO_DO, seen, means, "raise it: ulimit, LimitNOFILE= of systemd")
    elif limits.runs < limits.max_running:
        yield Finding(
            "limits",
            WORTH_KNOWING,
            f"{limits.open_files} open files (ulimit -Hn) are enough for {limits.runs} runs at a"
            f" time, not for max_running = {limits.max_running}",
            "more than these wait, with their windows open, until one ends",
            "raise it: ulimit, LimitNOFILE= of systemd",
        )
    if limits.map_refused:
        yield Finding("limits", TO_DO, limits.map_refused, means, "raise it, or lower map_size")
    if limits.file_bytes is not None and limits.file_bytes < limits.map_bytes:
        yield Finding(
            "limits",
            TO_DO,
            f"files may have {limits.file_bytes} bytes (ulimit -f), daemonDB {limits.map_bytes}",
            "once daemonDB has grown to this nothing starts any more",
            "raise it: ulimit -f, LimitFSIZE= of systemd; or lower map_size",
        )
    if limits.processes is not None and limits.processes < 3 * limits.max_running:
        yield Finding(
            "limits",
            WORTH_KNOWING,
            f"this user may have {limits.processes} processes (ulimit -u)",
            "a run takes two beside what its script starts: some may fail to start",
            "raise it: ulimit -u, LimitNPROC= of systemd",
        )


NO_LIMIT_HIT = "what this session has is enough; a service has those of its unit"


def of_memory(available_bytes: int | None, runs: int) -> Finding:
    """Judge the memory that is available, for so many runs at a time."""
    wanted = DAEMON_BYTES + runs * RUN_BYTES
    if available_bytes is None:
        means = "whether runs fit nobody can say"
        return Finding("memory", WORTH_KNOWING, "the kernel does not tell", means)
    seen = f"{available_bytes // 1_000_000} MB are available"
    if available_bytes < DAEMON_BYTES:
        means = "the daemon, or a script, may be ended for want of memory"
        return Finding("memory", TO_DO, seen, means, "end something else, or add swap")
    if available_bytes < wanted:
        return Finding(
            "memory",
            WORTH_KNOWING,
            seen,
            f"the daemon with {runs} runs at a time takes {wanted // 1_000_000} MB beside its"
            " scripts",
            "lower max_running, or let the kernel merge pages (docs/operations.md)",
        )
    return Finding("memory", FINE, seen, f"{runs} runs at a time fit, beside what scripts take")


class Place(NamedTuple):
    """A directory of the daemon, or the one that it will be made in. `medium` is one of `sd`,
    `emmc`, `raw flash`, `ssd`, `disk` and ""; `bytes_min` what it must have room for."""

    key: str
    path: str
    kind: str
    options: frozenset[str]
    medium: str
    free_bytes: int
    has_inodes: bool
    bytes_min: int


def of_file_system(place: Place, refused: frozenset[str], forgetful: frozenset[str]) -> Finding:
    """Judge the file system of `state_dir`; `refused` can hold no daemonDB, `forgetful` ones lose
    it."""
    elsewhere = "put state_dir on a local file system that stays: ext4, xfs, f2fs, btrfs"
    on = f"state_dir ({place.path}) is on {place.kind or 'a file system of unknown kind'}"
    name = "file-system"
    if place.kind in refused:
        means = "daemonDB cannot be kept there: no daemon starts"
        return Finding(name, TO_DO, on, means, elsewhere)
    if place.kind in forgetful:
        means = "a power cut or a reboot may lose daemonDB: what ran may run again in its window"
        return Finding(name, TO_DO, on, means, elsewhere)
    if "ro" in place.options:
        means = "nothing can be written: nothing starts"
        return Finding(name, TO_DO, f"{on}, mounted read-only", means, "mount it writable")
    if unbarred := sorted(place.options & _UNBARRED):
        means = "a power cut may damage daemonDB, for writes are not kept in order"
        todo = f"mount it without {unbarred[0]}"
        return Finding(name, TO_DO, f"{on}, mounted with {unbarred[0]}", means, todo)
    if place.kind in _WITHOUT_OWNERS:
        means = "it knows no owners, and others may read or write what the daemon keeps"
        return Finding(name, TO_DO, on, means, elsewhere)
    return Finding(name, FINE, on, "what is committed outlives a power cut")


def of_runtime_dir(place: Place) -> Iterator[Finding]:
    if place.kind == "btrfs":
        yield Finding(
            "file-system",
            WORTH_KNOWING,
            f"runtime_dir ({place.path}) is on btrfs",
            "where that has no room for its metadata the kernel ends the daemon (SIGBUS)",
            "put runtime_dir on a tmpfs, as /run is",
        )


_MEDIA = {
    "sd": "an SD card",
    "emmc": "eMMC",
    "raw flash": "raw flash",
    "ssd": "flash behind a controller, or a virtual disk",
    "disk": "a rotating disk, or a virtual one",
}


def of_flash(place: Place) -> Finding:
    """Judge what `state_dir` is written to."""
    seen = f"state_dir is on {_MEDIA.get(place.medium, 'a device that does not say what it is')}"
    if place.medium == "sd":
        return Finding(
            "flash",
            WORTH_KNOWING,
            seen,
            "each change of a status waits for the card, and many cards lose data at a power cut"
            " that they said was written; daemonDB then begins anew from a backup or the backend",
            "use a card made for that, or eMMC; where that cannot be, keep backup_interval",
        )
    wears = "it is written only when a status changes, so it wears little"
    return Finding("flash", FINE, seen, wears)


def of_disk(places: Sequence[Place], free_bytes_min: int) -> Iterator[Finding]:
    """Judge the room of the daemon's directories. Below `free_bytes_min` nothing can be written."""
    lost = {
        "state_dir": "nothing starts until there is room; what runs is still stopped in time",
        "runtime_dir": "no run can be started: FAILED, cannot-start",
        "log_dir": "output of runs is lost; the runs themselves are not",
    }
    for place in places:
        room = f"{place.key} ({place.path}) has {place.free_bytes // _MIB} MiB free"
        if place.free_bytes < free_bytes_min or not place.has_inodes:
            what = "full" if place.has_inodes else "out of inodes"
            seen = f"{place.key}: the file system of {place.path} is {what}"
            yield Finding("disk", TO_DO, seen, lost[place.key], "make room there")
        elif place.free_bytes < place.bytes_min:
            needs = f"{room}, and needs {place.bytes_min // _MIB} MiB"
            state = WORTH_KNOWING if place.key == "log_dir" else TO_DO
            todo = "make room there" + (", or lower map_size" * (place.key == "state_dir"))
            yield Finding("disk", state, needs, f"once it is full, {lost[place.key]}", todo)


class Init(NamedTuple):
    """The init of this host. `unit` is its file for the daemon, "" where there is none; `enable`
    are the commands that have it run, as text; `restarts`: it starts a killed daemon again."""

    name: str
    unit: str
    enabled: bool
    enable: str
    restarts: bool = True
    container: bool = False


def of_init(init: Init, *, root: bool) -> Finding:
    away = "after a boot no daemon runs, and windows go by"
    if init.enabled and init.restarts:
        means = "the daemon is started at boot, and again when it ends unasked"
        return Finding("init", FINE, f"{init.name} runs {init.unit}", means)
    if init.enabled:
        return Finding(
            "init",
            WORTH_KNOWING,
            f"{init.name} runs {init.unit}",
            "the daemon is started at boot, but nothing starts it again when it was killed",
            "use a line in /etc/inittab in its place (deploy/inittab.example)",
        )
    if init.unit:
        seen = f"{init.name} has {init.unit}, and does not run it"
        return Finding("init", TO_DO, seen, away, init.enable)
    if init.container:
        todo = "let the container start geoschedd, and be restarted with it"
        return Finding("init", WORTH_KNOWING, "a container, without an init", away, todo)
    seen = f"{init.name} has no unit for the daemon"
    todo = "install the package, or run deploy/install.sh"
    return Finding("init", TO_DO if root else WORTH_KNOWING, seen, away, todo)


def of_daemon(runs: bool | None, start: str) -> Finding:
    """Judge whether a daemon listens on `runtime_dir`; None: this user may not know."""
    if runs:
        return Finding("daemon", FINE, "a daemon runs", "it keeps the windows that it knows of")
    if runs is None:
        means = "geosched-ctl cannot ask it either"
        todo = "put this user into the group of runtime_dir"
        return Finding("daemon", WORTH_KNOWING, "runtime_dir is closed to this user", means, todo)
    means = "no window is kept until one does"
    return Finding("daemon", WORTH_KNOWING, "no daemon runs", means, start)
