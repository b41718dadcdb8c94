"""Table of the kinds of backend: what each needs, and where its code is.

The supervisor checks a configuration by it, the synchroniser loads a backend by it. A new
kind is a module in `workers/sync/backends/` and a row here; nothing else compares kinds
(tests/unit/ipc/test_backends.py).
"""

from typing import Literal, NamedTuple


class BackendKind(NamedTuple):
    """One kind of backend.

    `implementation` is `module:class`, the module one of `workers/sync/backends/`, which is
    imported by the synchroniser only. `needs` is the key of `[backend]` that says where the
    backend is. A `local` one asks for no credentials, and no back-off spares it.
    """

    implementation: str
    needs: Literal["url", "path"] = "url"
    local: bool = False
    takes_proxy: bool = True


#: By the value of `backend.kind` (INTERFACE).
BACKENDS: dict[str, BackendKind] = {
    "http": BackendKind("http:HttpBackend"),
    "trpc": BackendKind("trpc:TrpcBackend"),
    "file": BackendKind("file:FileBackend", needs="path", local=True, takes_proxy=False),
}
