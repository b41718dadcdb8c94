"""Peers of our sockets that attach descriptors, whose last close waits, to what they send."""

import errno
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from geosched.ipc import unwanted_descriptors
from geosched.ipc.router import Bounds
from geosched.ipc.sockets import Server, new_context
from support.lingering import AT_ONCE_SECONDS, leave, lingering
from support.router import BOUNDS, Echo
from support.second_user import SECOND_USER, needs_two_users

pytestmark = needs_two_users
NOBODY = Bounds(64, 0)
SO_PASSRIGHTS = 83


def passes_no_rights() -> bool:
    """This kernel can be asked to (Linux 6.16)."""
    with socket.socket(socket.AF_UNIX) as asked:
        try:
            asked.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        except OSError as error:
            if error.errno == errno.ENOPROTOOPT:
                return False
            raise
    return True


@pytest.fixture
def open_to_all(
    echoes: Callable[..., Echo], path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Echo]:
    """An echo to which everybody may connect, of a kernel that passes descriptors, or of ours."""

    def make(bounds: Bounds = BOUNDS, *, older_kernel: bool) -> Echo:
        if older_kernel:
            monkeypatch.setattr(unwanted_descriptors, "refuse", lambda _: None)
        echo = echoes(bounds)
        path.parent.chmod(0o755)
        path.chmod(0o666)
        return echo

    return make


def seconds_of(call: Callable[[], object]) -> float:
    began_monotonic = time.monotonic()
    call()
    return time.monotonic() - began_monotonic


@pytest.mark.skipif(not passes_no_rights(), reason="this kernel has no SO_PASSRIGHTS")
def test_descriptors_are_refused_to_their_sender(open_to_all: Callable[..., Echo], path: Path):
    open_to_all(older_kernel=False)
    with lingering(path, socket.SOCK_STREAM, SECOND_USER) as (_, said):
        assert said == "PermissionError"


@pytest.mark.skipif(not passes_no_rights(), reason="this kernel has no SO_PASSRIGHTS")
@pytest.mark.parametrize("anew", [False, True])
def test_they_are_refused_where_libzmq_listens_also_after_it_does_so_anew(path: Path, anew: bool):
    with new_context() as context:
        server: Server[bytes, bytes] = Server(context, path, receives=bytes, mode=0o666)
        try:
            path.parent.chmod(0o755)
            if anew:
                path.unlink()
                server.rebind()
            with lingering(path, socket.SOCK_STREAM, SECOND_USER) as (_, said):
                assert said == "PermissionError"
        finally:
            server.close()


def test_who_attaches_some_is_refused_and_holds_nobody_up(
    open_to_all: Callable[..., Echo], path: Path
):
    echo = open_to_all(older_kernel=True)
    with lingering(path, socket.SOCK_STREAM, SECOND_USER) as (_, said):
        assert said == "sent"
        assert seconds_of(echo.settle) < AT_ONCE_SECONDS
        assert (echo.router.refused, len(echo.router)) == (1, 0)


def test_one_that_is_not_let_in_holds_nobody_up(open_to_all: Callable[..., Echo], path: Path):
    echo = open_to_all(NOBODY, older_kernel=True)
    with lingering(path, socket.SOCK_STREAM, SECOND_USER) as (process, said):
        assert said == "sent"
        leave(process)
        assert seconds_of(echo.settle) < AT_ONCE_SECONDS
        assert echo.router.refused == 1


@pytest.mark.parametrize("accepted", [True, False])
def test_a_router_that_closes_is_not_held_up(
    open_to_all: Callable[..., Echo], path: Path, accepted: bool
):
    echo = open_to_all(older_kernel=True)
    with lingering(path, socket.SOCK_STREAM, SECOND_USER) as (process, said):
        assert said == "sent"
        if accepted:
            echo.router._accept(echo.now)
        else:
            leave(process)
        assert len(echo.router) == accepted
        assert seconds_of(echo.router.close) < AT_ONCE_SECONDS


def test_a_router_that_listens_anew_is_not_held_up(open_to_all: Callable[..., Echo], path: Path):
    echo = open_to_all(older_kernel=True)
    with lingering(path, socket.SOCK_STREAM, SECOND_USER) as (process, said):
        assert said == "sent"
        leave(process)
        path.unlink()
        assert seconds_of(echo.router.rebind) < AT_ONCE_SECONDS
