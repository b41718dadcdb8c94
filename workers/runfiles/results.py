"""Results of runs, kept on disk until the supervisor has committed them (law 14).

One small file a run in `runtime_dir/results`, there whole or not at all, with a checksum.
"""

import logging
import os
import zlib

import msgspec

from ...ipc.decoding import DECODE_ERRORS
from ...ipc.messages.runs import RunResult
from ...ipc.paths import Runtime
from ..host.files import TEMPORARY, open_regular, raise_shortage, replace_whole

log = logging.getLogger(__name__)

#: More than any result takes; a longer file was not written here.
RESULT_BYTES_MAX = 64 * 1024

_decode = msgspec.json.Decoder(RunResult).decode


def keep(runtime: Runtime, result: RunResult) -> None:
    """Write a result durably. Raises `OSError`."""
    content = msgspec.json.encode(result)
    checked = f"{zlib.crc32(content):08x}\n".encode() + content
    path = f"{runtime.results}/{result.run_id}"
    try:
        replace_whole(path, checked, durable=True)
    except FileNotFoundError:  # somebody has removed its directory
        runtime.results.mkdir(mode=0o700, exist_ok=True)
        replace_whole(path, checked, durable=True)


def load(runtime: Runtime, run_id: str) -> RunResult | None:
    """Return the kept result of a run. One that cannot be read is logged, removed, and None.
    Raises `OSError` where there is no descriptor to read it with."""
    path = runtime.results / run_id
    try:
        with open_regular(path, follow_links=False) as file:
            checksum, content = file.read(RESULT_BYTES_MAX).split(b"\n", 1)
        if int(checksum, 16) != zlib.crc32(content):
            raise ValueError("its checksum is wrong")
        result = _decode(content)
        if result.run_id != run_id:
            raise ValueError(f"it is of run {result.run_id}")
    except FileNotFoundError:
        return None
    except (OSError, *DECODE_ERRORS) as error:
        if isinstance(error, OSError):
            raise_shortage(error)
        log.warning(
            "Cannot read the kept result %s, dropping it: %s",
            path,
            error,
            extra={"event": "result-unreadable", "runId": run_id},
        )
        remove(runtime, run_id)
        return None
    return result


def load_all(runtime: Runtime) -> list[RunResult]:
    """Return all kept results, by run id. Removes temporary files that a crash left behind."""
    try:
        names = sorted(os.listdir(runtime.results))
    except FileNotFoundError:
        return []
    for name in names:
        if name.endswith(TEMPORARY):
            remove(runtime, name)
    found = (load(runtime, name) for name in names if not name.endswith(TEMPORARY))
    return [result for result in found if result is not None]


def remove(runtime: Runtime, run_id: str) -> None:
    """Remove a result. Where that fails, the next start finds it, and settles it again."""
    try:
        os.unlink(f"{runtime.results}/{run_id}")
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning(
            "Cannot remove the kept result of run %s: %s",
            run_id,
            error,
            extra={"event": "result-not-removed", "runId": run_id},
        )
