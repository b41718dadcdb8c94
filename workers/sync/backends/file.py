"""Backend `file`: actions from a JSON file, reports appended to another beside it.

The file of reports is opened for each exchange, and grows until its reader moves or empties it.
"""

import os
from typing import IO

import msgspec

from ....ipc.messages.sync import ErrorKind, NotModified, Pull, Send, Taken
from ....ipc.paths import status_journal
from ..backend_files import BackendFiles, FilesOf, LocalFiles
from ..base import Backend, ExchangeError, Snapshot
from ..bodies.snapshot import digest_of, read_snapshot
from ..bodies.status_reports import as_json


class FileBackend(Backend):
    """The operator writes the actions; a missing file is an error, not an empty snapshot."""

    def __init__(self, files_of: FilesOf = LocalFiles) -> None:
        self._files_of = files_of

    def pull(self, pull: Pull) -> Snapshot | NotModified:
        """Read the file whole; its digest stands in for an ETag."""
        files = self._files_of(pull.backend)
        body = _read(files, pull.backend.path, pull.backend.max_body_bytes)
        return read_snapshot(body, digest_of(body), pull)

    def send(self, send: Send) -> Taken:
        """Append a line for each report; all are accepted once they are on the disk."""
        path = status_journal(send.backend.path)
        lines = b"".join(msgspec.json.encode(as_json(report)) + b"\n" for report in send.reports)
        try:
            with self._files_of(send.backend).open_reports() as file:
                _append(file, lines)
        except OSError as error:
            reason = error.strerror or str(error)
            detail = f"cannot write the reports to {path}: {reason}"
            raise ExchangeError(ErrorKind.LOCAL, detail) from None
        return Taken(send.exchange, tuple(report.key for report in send.reports))


def _read(files: BackendFiles, path: str, bytes_max: int) -> bytes:
    try:
        with files.open("path") as file:
            body = file.read(bytes_max + 1)
    except OSError as error:
        detail = f"cannot read the actions from {path}: {error.strerror or error}"
        raise ExchangeError(ErrorKind.LOCAL, detail) from None
    if len(body) > bytes_max:
        detail = f"cannot read the actions from {path}: it is longer than {bytes_max} bytes"
        raise ExchangeError(ErrorKind.TOO_LARGE, detail)
    return body


def _append(file: IO[bytes], lines: bytes) -> None:
    """Append lines and wait for the disk; half a line that a crash left stays on its own."""
    size = file.seek(0, os.SEEK_END)
    if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
        file.write(b"\n")
    file.write(lines)
    file.flush()
    os.fsync(file.fileno())
