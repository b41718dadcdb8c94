"""Look at a host, for `geosched-ctl doctor`: facts are gathered, judged, and printed as they come,
a finding a line of JSON.

It runs before a daemon does, with and without a configuration, and changes nothing. What speaks to
the network is another process, without root's rights (`workers/sync/probe.py`).

    python -P -m geosched.supervisor.startup.first_run.doctor CONFIG
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ....ipc import standard_streams
from ....ipc.backends import BACKENDS
from ....ipc.decoding import DECODE_ERRORS
from ....ipc.environment import child_environment
from ....ipc.messages.first_run import Dates, Finding, Probed, State
from ....ipc.messages.sync import ErrorKind
from ....ipc.paths import Runtime
from ....workers.host import tls_files
from ....workers.host.files import UMASK
from ....workers.host.linux import set_parent_death_signal
from ...config.derived import address
from ...config.sections import DaemonSettings, Settings, SettingsError
from ...config.settings import load
from ...store.files import FORGETFUL_FILE_SYSTEMS, FREE_BYTES_MIN, REFUSED_FILE_SYSTEMS
from .. import kernel, preflight
from ..handover import handed_over, owner_of
from . import backend_diagnosis, diagnosis, facts, init_system
from .backend_diagnosis import Configuration
from .diagnosis import Rights

_PROBE = "geosched.workers.sync.probe"
#: A pull of the probe, which the settings may allow more; and the whole of it.
PULL_SECONDS_MAX = 20.0
PROBE_SECONDS_MAX = 40.0
#: Should a disk hang, this process ends all the same.
SECONDS_MAX = 300
_ANSWER_BYTES_MAX = 64 * 1024
_BY_BACKEND = "the backend has to renew it"
_BY_OPERATOR = "renew it, and put the new one into its file"


def main() -> None:
    standard_streams.complete()
    os.umask(UMASK)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C ends it without a traceback
    set_parent_death_signal(signal.SIGKILL)
    signal.alarm(SECONDS_MAX)
    for finding in findings(Path(sys.argv[1])):
        sys.stdout.buffer.write(msgspec.json.encode(finding) + b"\n")
        sys.stdout.buffer.flush()


def findings(config: Path) -> Iterator[Finding]:
    """Yield what is found on this host for the daemon of a configuration, which may be missing."""
    settings, told = _loaded(config)
    daemon = settings.daemon if settings else DaemonSettings()
    refused = kernel.why_not()
    yield diagnosis.of_kernel(os.uname().release, refused)
    if refused:  # what follows needs it, too
        yield from backend_diagnosis.of_configuration(told)
        return
    rights = facts.rights_of(daemon)
    yield diagnosis.of_rights(rights)
    yield from _of_processes(daemon)
    yield from _of_clocks(daemon)
    yield from _of_storage(daemon)
    yield from _of_service(daemon, told, root=rights.root)
    if settings and (rights.root or not rights.daemon_user):
        told = told._replace(
            problems=tuple(preflight.check(settings)), remarks=tuple(preflight.remarks(settings))
        )
    yield from backend_diagnosis.of_configuration(told)
    yield from _of_backend(settings, rights)


def _loaded(config: Path) -> tuple[Settings | None, Configuration]:
    there = os.path.lexists(config)
    try:
        return load(config), Configuration(str(config), there)
    except SettingsError as error:
        return None, Configuration(str(config), there, str(error))


def _of_processes(daemon: DaemonSettings) -> Iterator[Finding]:
    yield diagnosis.of_cgroups(facts.containment())
    yield diagnosis.of_ptrace(facts.ptrace_refused(), facts.yama_scope())
    limits = facts.limits_of(daemon)
    hit = [*diagnosis.of_limits(limits)]
    seen = f"{limits.open_files} open files (ulimit -Hn), enough for {limits.runs} runs at a time"
    yield from hit or [Finding("limits", State.FINE, seen, diagnosis.NO_LIMIT_HIT)]
    yield diagnosis.of_memory(facts.available_bytes(), min(limits.runs, limits.max_running))


def _of_clocks(daemon: DaemonSettings) -> Iterator[Finding]:
    clock = facts.clock_of(daemon)
    yield diagnosis.of_clock(clock)
    yield diagnosis.of_rtc(facts.rtc(), clock)


def _of_storage(daemon: DaemonSettings) -> Iterator[Finding]:
    places = {place.key: place for place in facts.places_of(daemon)}
    if state_dir := places.get("state_dir"):
        yield diagnosis.of_file_system(state_dir, REFUSED_FILE_SYSTEMS, FORGETFUL_FILE_SYSTEMS)
        yield diagnosis.of_flash(state_dir)
    if runtime_dir := places.get("runtime_dir"):
        yield from diagnosis.of_runtime_dir(runtime_dir)
    short = [*diagnosis.of_disk([*places.values()], FREE_BYTES_MIN)]
    seen = ", ".join(f"{key} {place.free_bytes // 1024**2} MiB" for key, place in places.items())
    means = "there is room for what the daemon writes"
    yield from short or [Finding("disk", State.FINE, f"free: {seen}", means)]


def _of_service(daemon: DaemonSettings, told: Configuration, *, root: bool) -> Iterator[Finding]:
    init = init_system.found()
    start = init.enable if init.unit and root else f"geoschedd --config {told.path}"
    if not told.there:
        start = "geosched-ctl init, which offers to do so"
        init = init._replace(enable=start)
    yield diagnosis.of_init(init, root=root)
    yield diagnosis.of_daemon(facts.daemon_runs(Runtime(daemon.runtime_dir)), start)


def _of_backend(settings: Settings | None, rights: Rights) -> Iterator[Finding]:
    if settings is None:
        yield backend_diagnosis.not_asked("there is no configuration to use", "geosched-ctl init")
        return
    if rights.daemon_user and not rights.root:
        yield backend_diagnosis.not_asked("its token is not this user's", "run this as root")
        return
    # Whoever can write the configuration could have root send a secret of root's elsewhere.
    if exposed := preflight.trust_problems(settings, of_backend=False):
        todo = "let nobody else write it"
        yield backend_diagnosis.not_asked(exposed[0], todo)
        return
    probed = _probed(settings)
    backend, now_us = settings.backend, facts.now_us()
    if probed is None:
        yield backend_diagnosis.no_answer(PROBE_SECONDS_MAX)
        probed = Probed()
    else:
        kind = BACKENDS[backend.kind]
        where = backend.path if kind.needs == "path" else backend.url
        oauth = backend.auth == "oauth"
        yield backend_diagnosis.of_backend(where, probed, oauth=oauth, local=kind.local)
    yield from backend_diagnosis.of_backend_clock(probed.ahead_seconds)
    shown = probed.certificates
    yield from backend_diagnosis.of_certificates("certificate", shown, now_us, _BY_BACKEND)
    own = [*_dates_in(backend.client_cert, whole=False), *_dates_in(backend.ca_file, whole=True)]
    yield from backend_diagnosis.of_certificates("own-certificate", own, now_us, _BY_OPERATOR)


def _dates_in(path: str, *, whole: bool) -> list[Dates]:
    """Return the dates in a file of certificates: of the first one, which is whose it is, or, of a
    `whole` one, of the one that ends first. That it cannot be read, `--check` says."""
    with contextlib.suppress(OSError, ValueError):
        found = tls_files.validities_in(path) if path else []
        if whole:
            found.sort(key=lambda each: each.ends_us)
        return [Dates(path, *each) for each in found[:1]]
    return []


def _probed(settings: Settings) -> Probed | None:
    """Return what a pull of another process comes to; None where that gave no answer in time."""
    backend = address(settings.backend)
    seconds = min(backend.timeout_seconds, PULL_SECONDS_MAX)
    given = handed_over(msgspec.structs.replace(backend, timeout_seconds=seconds))
    owner = str(_owner(settings))
    command = [sys.executable, "-P", "-m", _PROBE, str(given), owner]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=child_environment(os.environ),
            pass_fds=[given],
            timeout=PROBE_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    finally:
        os.close(given)
    try:
        return msgspec.json.decode(done.stdout[:_ANSWER_BYTES_MAX], type=Probed)
    except DECODE_ERRORS:
        detail = f"the process that asks ended with {done.returncode}, and gave no answer"
        return Probed(ErrorKind.LOCAL, detail)


def _owner(settings: Settings) -> int:
    """Return whose the daemon is; ours where others say which directory is its."""
    try:
        return owner_of(settings.daemon.state_dir)
    except OSError:
        return os.geteuid()


if __name__ == "__main__":
    main()
