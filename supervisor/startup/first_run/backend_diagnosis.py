"""Diagnosis of a configuration, its backend and its certificates: what they mean for windows, and
what to do about it. Pure.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ....ipc.instants import SECOND_US, format_instant
from ....ipc.messages.first_run import Dates, Finding, Probed, State
from ....ipc.messages.sync import ErrorKind

FINE, WORTH_KNOWING, TO_DO = State.FINE, State.WORTH_KNOWING, State.TO_DO

_DAY_US = 86_400 * SECOND_US
#: A certificate is renewed before its end: one that is valid for a year weeks before, one that is
#: valid for six days a few days before.
RENEWED_DAYS_MIN = 14
RENEWED_DAYS_MIN_SHORT = 2
SHORT_LIVED_DAYS = 30
#: An instant that a clock cannot be off by unseen: windows would begin so much too early or late.
AHEAD_SECONDS_MAX = 5.0

_OLD = "known actions go on as planned; what the backend changes is not heard of"
_TODO = {
    ErrorKind.UNREACHABLE: "look at backend.url, the name server, the proxy and the firewall",
    ErrorKind.TIMEOUT: "look at the network; or raise backend.timeout",
    ErrorKind.UNTRUSTED: "name its authority as backend.ca_file; or set the clock",
    ErrorKind.REFUSED: "look at backend.url and backend.kind",
    ErrorKind.BUSY: "nothing: the daemon tries again, at the backend's pace",
    ErrorKind.NO_REPORTS: "set report = false, or extend the backend",
    ErrorKind.BAD_ANSWER: "look at backend.url and backend.kind: something else answers there",
    ErrorKind.TOO_LARGE: "raise backend.max_body or backend.max_actions",
    ErrorKind.LOCAL: "mend what it names",
}


class Configuration(NamedTuple):
    """What is known of the file at `path`: `unusable` says why it cannot be loaded; `problems`
    are those of `geoschedd --check`, None where that was not asked, `remarks` its warnings."""

    path: str
    there: bool
    unusable: str = ""
    problems: tuple[str, ...] | None = None
    remarks: tuple[str, ...] = ()


def of_configuration(found: Configuration) -> Iterator[Finding]:
    name, starts_not = "configuration", "the daemon does not start, or a script of it fails"
    if not found.there:
        means = "without one no daemon starts; the rest is looked at with the defaults"
        yield Finding(name, TO_DO, f"{found.path} is not there", means, "geosched-ctl init")
    elif found.unusable:
        means = "no daemon starts, and a running one goes on with what it has"
        yield Finding(name, TO_DO, found.unusable, means, "mend it, then geoschedd --check")
    elif found.problems is None:
        yield Finding(name, FINE, f"{found.path} can be read", "whether it fits only its user sees")
    elif not found.problems and not found.remarks:
        yield Finding(name, FINE, found.path, "geoschedd --check has no fault to tell")
    for problem in found.problems or ():
        yield Finding(name, TO_DO, problem, starts_not, "mend it, then geoschedd --check")
    for remark in found.remarks:
        means = "a daemon starts with it"
        yield Finding(name, WORTH_KNOWING, remark, means, "see docs/settings.md")


def not_asked(why: str, todo: str) -> Finding:
    """Return the finding for a backend that was not asked."""
    return Finding("backend", WORTH_KNOWING, f"not asked: {why}", "nothing is known of it", todo)


def no_answer(seconds: float) -> Finding:
    """Return the finding for a probe that was given up."""
    seen = f"no answer within {seconds:g} s"
    todo = "look at the network, the name server first; or at the disk of its files"
    return Finding("backend", TO_DO, seen, _OLD, todo)


def of_backend(where: str, probed: Probed, *, oauth: bool, local: bool = False) -> Finding:
    """Judge a pull from the backend at `where`; a `local` one asks nobody who they are."""
    if probed.failed is ErrorKind.UNAUTHORIZED:
        todo = (
            "geosched-ctl login"
            if oauth
            else "put a token that the backend takes into backend.token_file, mode 0600"
        )
        return Finding("backend", TO_DO, probed.detail, _OLD, todo)
    if probed.failed is not None:
        state = WORTH_KNOWING if probed.failed is ErrorKind.BUSY else TO_DO
        return Finding("backend", state, probed.detail, _OLD, _TODO[probed.failed])
    seen = f"{where} {'has' if local else 'answers with'} {probed.actions} action"
    seen += "s" * (probed.actions != 1)
    if probed.set_aside:
        means = "these are set aside; the others run"
        todo = "correct them at the backend; with a daemon, geosched-ctl status names them"
        seen += f", and {probed.set_aside} that cannot be used"
        return Finding("backend", WORTH_KNOWING, seen, means, todo)
    means = "it can be read" if local else "it is there, and takes who we say we are"
    return Finding("backend", FINE, seen, means)


def of_backend_clock(ahead_seconds: float | None) -> Iterator[Finding]:
    """Judge how far the backend's clock is ahead of ours."""
    name = "backend-clock"
    if ahead_seconds is None:
        return
    if abs(ahead_seconds) <= AHEAD_SECONDS_MAX:
        means = "windows begin and end when the backend means them to"
        yield Finding(name, FINE, "the backend's clock and this one agree", means)
        return
    late = ahead_seconds > 0
    yield Finding(
        name,
        TO_DO,
        f"the backend's clock is {abs(ahead_seconds):.0f} s {'ahead' if late else 'behind'}",
        f"windows begin and end so much too {'late' if late else 'early'}, if the backend is right",
        "set the clock that is wrong, and keep it by NTP",
    )


def of_certificates(
    name: str, found: Iterable[Dates], now_us: int, renews: str
) -> Iterator[Finding]:
    """Judge the dates of certificates; `renews` says who has to renew them."""
    for dates in found:
        life_days = (dates.ends_us - dates.begins_us) / _DAY_US
        left_days = (dates.ends_us - now_us) / _DAY_US
        ends = f"{dates.of}: valid until {_shown(dates.ends_us)}"
        if dates.begins_us > now_us:
            seen = f"{dates.of}: not valid before {_shown(dates.begins_us)}"
            yield Finding(name, TO_DO, seen, _OLD, "set the clock, if that is wrong; else wait")
        elif left_days < 0:
            seen = f"{dates.of}: not valid since {_shown(dates.ends_us)}"
            todo = f"set the clock, if that is wrong; else {renews}"
            yield Finding(name, TO_DO, seen, _OLD, todo)
        elif left_days < _days_min(life_days):
            seen = f"{ends}, {left_days:.0f} days from now"
            yield Finding(name, TO_DO, seen, f"from then on, {_OLD}", renews)
        else:
            yield Finding(name, FINE, ends, "the backend can be trusted until then")


def _days_min(life_days: float) -> float:
    return RENEWED_DAYS_MIN if life_days > SHORT_LIVED_DAYS else RENEWED_DAYS_MIN_SHORT


def _shown(at_us: int) -> str:
    return format_instant(at_us)[:10]
