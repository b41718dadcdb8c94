"""The command `geoschedd`: its options, and the exit code of each error.

The order of start (law 15): locks, sweep of what an earlier daemon left, zygote
(`bootstrap.py`); daemonDB, S2, sockets, work (`service.py`). A failure on the way exits with
its documented code, and everything that was opened is closed.
"""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import __version__
from ..ipc import standard_streams
from ..ipc.foreign_text import visible
from ..ipc.paths import DEFAULT_CONFIG
from ..workers.host import log_lines
from ..workers.host.files import UMASK
from .config.sections import Settings, SettingsError
from .config.settings import load
from .host import logs
from .host.locks import AlreadyRunningError
from .startup import bootstrap, directories, preflight
from .startup.apart import CallError, called_apart
from .store.errors import StoreError

log = logging.getLogger(__name__)

EXIT_STOPPED, EXIT_ERROR, EXIT_SETTINGS, EXIT_ALREADY_RUNNING, EXIT_STORE = range(5)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command `geoschedd`, and exit."""
    standard_streams.complete()
    os.umask(UMASK)
    try:
        options = _options(arguments)
    except SystemExit:  # help, version, wrong usage
        if (lost := standard_streams.unwritten()) is None:
            raise
        if not standard_streams.reader_left(lost):
            _tell(f"cannot write the output: {lost.strerror}")
        raise SystemExit(EXIT_ERROR) from None
    log_lines.set_up(options.log_level, options.log_format, logging.StreamHandler(sys.stderr))
    if options.check:
        raise SystemExit(_checked(options))
    try:
        preflight.require_kernel()  # the log needs it, too
    except SettingsError as error:
        log.error("%s", error)
        raise SystemExit(EXIT_SETTINGS) from None
    with logs.Log(options.log_level, options.log_format) as kept:
        raise SystemExit(_run(options, kept))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="geoschedd", description="Runs action scripts for exact windows of time."
    )
    parser.add_argument("--config", type=Path, help=f"default {DEFAULT_CONFIG}")
    parser.add_argument("--check", action="store_true", help="validate the configuration, leave")
    parser.add_argument("--log-level", choices=log_lines.LEVELS, default="info")
    parser.add_argument("--log-format", choices=log_lines.STYLES, default="text")
    parser.add_argument("--version", action="version", version=f"geoschedd {__version__}")
    options = parser.parse_args(arguments)
    options.config = options.config or Path(os.environ.get("GEOSCHED_CONFIG") or DEFAULT_CONFIG)
    return options


def _run(options: argparse.Namespace, kept: logs.Log) -> int:
    """Run the daemon; return the exit code, each error with one line that says what to do."""
    try:
        settings = load(options.config)
        preflight.require_address_space(settings)
        _look_at_host(settings)
        with contextlib.ExitStack() as opened:
            base = _prepared(settings, opened)
            # Not earlier: its imports take as long as the sweep's pause, which they make use of.
            from .service import Service

            Service(settings, opened, base, kept=kept).run()
        return EXIT_STOPPED
    except SettingsError as error:
        log.error("%s", error)
        return EXIT_SETTINGS
    except AlreadyRunningError as error:
        log.error("%s", error)
        return EXIT_ALREADY_RUNNING
    except StoreError as error:
        log.error("%s", error, extra={"event": "store-unusable"})
        return EXIT_STORE
    except CallError as error:
        log.error("cannot look at what %s names: %s", options.config, error)
        return EXIT_ERROR
    except Exception:
        log.exception("An unexpected error ended the daemon", extra={"event": "crash"})
        return EXIT_ERROR


def _prepared(settings: Settings, opened: contextlib.ExitStack) -> bootstrap.Bootstrap:
    """Raises `SettingsError` where the directories cannot be used after all."""
    try:
        return bootstrap.prepare(settings, opened)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise SettingsError(f"cannot use {settings.source}: {reason}") from None


def _look_at_host(settings: Settings) -> None:
    """Refuse what cannot be used, warn of what may be mended later. Its disks may hang: not the
    daemon waits for them. Raises `SettingsError`, `CallError` where trust cannot be told."""

    def problems() -> list[str]:
        try:
            preflight.refuse_untrusted(settings)
            preflight.refuse_foreign_users(settings)
        except SettingsError as error:
            return [str(error)]
        return ["", *preflight.warnings(settings)]

    refused, *warnings = called_apart(problems)
    if refused:
        raise SettingsError(refused)
    for warning in warnings:
        log.warning("%s: %s", settings.source, warning, extra={"event": "settings"})
    directories.prepare(settings)
    try:
        found = called_apart(lambda: directories.prepare_log_dir(settings))
    except CallError as error:
        found = [f"Output of runs is lost: {settings.daemon.log_dir}: {error}"]
    for problem in found:
        log.warning("%s: %s", settings.source, problem, extra={"event": "no-log-dir"})


def _checked(options: argparse.Namespace) -> int:
    """Check the configuration; return the exit code."""
    try:
        settings = load(options.config)
    except SettingsError as error:
        log.error("%s", error)
        return EXIT_SETTINGS
    problems = preflight.check(settings)
    for problem in problems:
        _tell(f"{settings.source}: {problem}")
    remarks = list(preflight.remarks(settings))
    for remark in remarks:
        _tell(f"{settings.source}: warning: {remark}")
    if not problems:
        _tell(f"{settings.source}: {'usable, with warnings' if remarks else 'all is well'}")
    return EXIT_SETTINGS if problems else EXIT_STOPPED


def _tell(line: str) -> None:
    print(f"geoschedd: {visible(line)}", file=sys.stderr)
