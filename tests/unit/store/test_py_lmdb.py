"""What differs between versions of py-lmdb is the same to the store."""

import errno
import sys
from contextlib import closing

import lmdb
import pytest
from geosched.supervisor.store import lmdb_env, py_lmdb
from geosched.supervisor.store.errors import StoreError, StoreErrorKind
from support import lmdb_errors
from support.lmdb_errors import lmdb_error

MAP_BYTES = 1024 * 1024
#: With a class of their own, and those of the system that have none.
CODES = (*lmdb_errors.CLASSES, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EPERM)


@pytest.mark.parametrize("has_codes", [True, False])
@pytest.mark.parametrize("code", CODES)
def test_a_code_is_told_by_class_and_text_where_the_error_has_none(code, has_codes):
    assert py_lmdb.code_of(lmdb_error(code, has_codes=has_codes)) == code


def test_an_error_of_the_library_itself_has_no_code():
    assert py_lmdb.code_of(lmdb.Error("Attempt to operate on closed/deleted/dropped object.")) == 0
    assert py_lmdb.code_of(None) == 0


@pytest.mark.parametrize("has_codes", [True, False])
def test_a_full_map_a_full_disk_and_too_little_memory_are_told_apart(tmp_path, has_codes):
    def kind_of(code: int) -> StoreErrorKind:
        with pytest.raises(StoreError) as told, lmdb_env.errors(tmp_path):
            raise lmdb_error(code, has_codes=has_codes)
        return told.value.kind

    assert kind_of(lmdb_errors.MDB_MAP_FULL) is StoreErrorKind.MAP_FULL
    assert kind_of(errno.ENOSPC) is StoreErrorKind.FULL
    assert kind_of(errno.ENOMEM) is StoreErrorKind.FULL
    assert kind_of(errno.EIO) is StoreErrorKind.IO
    assert kind_of(lmdb_errors.MDB_CORRUPTED) is StoreErrorKind.IO


def test_a_map_that_is_really_full_is_told(tmp_path):
    with (
        closing(lmdb_env.open_for_writing(tmp_path, MAP_BYTES)) as env,
        pytest.raises(py_lmdb.Error) as told,
        env.begin(write=True) as txn,
    ):
        txn.put(b"much", bytes(2 * MAP_BYTES))
    assert py_lmdb.code_of(told.value) == lmdb_errors.MDB_MAP_FULL


def test_a_process_opens_an_environment_once_until_it_is_closed(tmp_path):
    with closing(lmdb_env.open_for_writing(tmp_path, MAP_BYTES)):
        with pytest.raises(py_lmdb.Error, match="has it open already"):
            lmdb_env.open_for_writing(tmp_path, MAP_BYTES)
        with (
            pytest.raises(StoreError, match=r"^cannot use .*has it open already$"),
            lmdb_env.reading(tmp_path, live=True),
        ):
            pass
    lmdb_env.open_for_writing(tmp_path, MAP_BYTES).close()


def test_without_a_verifier_only_opening_tells(tmp_path, monkeypatch):
    lmdb_env.open_for_writing(tmp_path, MAP_BYTES).close()
    assert py_lmdb.verify(tmp_path) == ""
    (tmp_path / "data.mdb").write_bytes(bytes(8192))
    assert bool(py_lmdb.verify(tmp_path)) == (py_lmdb.verifier() is not None)
    monkeypatch.setitem(sys.modules, "lmdb.verify", None)
    assert py_lmdb.verifier() is None
    assert py_lmdb.verify(tmp_path) == ""
