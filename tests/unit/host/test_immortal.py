"""Immortal objects, where this Python has them; else that it says so, and changes nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
from geosched.workers.host import immortal
from geosched.workers.host.immortal import Interpreter, MortalError

HAS_THEM = sys.version_info >= (3, 12)
needs_them = pytest.mark.skipif(not HAS_THEM, reason="needs Python 3.12 or later")
BEGIN = """
import gc, os, socket, sys
from geosched.workers.host import immortal
word = immortal.check()
def count(one):
    return immortal.own_memory()[id(one) // 8] & 0xFFFF_FFFF
def is_immortal(one):
    return bool(count(one) >> 31)
"""


def run(body: str) -> "subprocess.CompletedProcess[str]":
    """In a process of its own: what is immortal stays so."""
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", BEGIN + body],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )


def check_runs(body: str) -> None:
    done = run(body)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("interpreter", "reason"),
    [
        (Interpreter("pypy", (3, 12)), "CPython only, and this is pypy 3.12"),
        (Interpreter("cpython", (3, 11)), "needs Python 3.12 or later, and this is cpython 3.11"),
        (Interpreter("cpython", (3, 13), "t", 64), "builds of the kind 't'"),
        (Interpreter("cpython", (3, 12), "d", 64), "builds of the kind 'd'"),
        (Interpreter("cpython", (3, 12), "", 32), "64 bits only, and this has 32"),
        (Interpreter("cpython", (3, 99), "", 64), "not known for cpython 3.99"),
    ],
)
def test_an_interpreter_whose_objects_are_not_known_is_refused_with_a_word(interpreter, reason):
    with pytest.raises(MortalError, match=reason) as refused:
        immortal.word_of(interpreter)
    assert not refused.value.surprising


@pytest.mark.skipif(HAS_THEM, reason="this Python has immortal objects")
def test_a_python_without_immortal_objects_is_left_as_it_is():
    with pytest.raises(MortalError, match="needs Python 3"):
        immortal.check()


@needs_them
def test_a_layout_that_is_not_what_was_expected_is_noticed(monkeypatch):
    monkeypatch.setitem(immortal._WORDS, sys.version_info[:2], 0x1234_5678)
    with pytest.raises(MortalError, match="the count of None") as refused:
        immortal.check()
    assert refused.value.surprising


@needs_them
@pytest.mark.parametrize(("seen", "reason"), [(1, "copies its page"), (2, "be watched")])
def test_a_fork_that_copies_the_page_or_cannot_be_watched_is_noticed(monkeypatch, seen, reason):
    monkeypatch.setattr(immortal, "_seen_in_child", lambda _: seen)
    with pytest.raises(MortalError, match=reason):
        immortal.check()


@needs_them
def test_the_test_leaves_no_child_and_its_fork_is_seen():
    before = set(Path("/proc/self/fd").iterdir())
    immortal.check()
    assert len(set(Path("/proc/self/fd").iterdir())) == len(before)
    assert not Path("/proc/thread-self/children").read_text()


@needs_them
def test_references_to_what_is_made_immortal_are_not_counted():
    check_runs(
        """
kept = {"key": [1.5, "text " * 3, (object(),)]}
def function(argument, name="default " + str(word)):
    return "a constant of a function that was never called", argument
made = immortal.make_immortal(word)
assert made > 1000, made
code = function.__code__
everything = [kept, kept["key"], *kept["key"], kept["key"][2][0], function, code, *code.co_consts,
              function.__defaults__[0], code.co_names, code.co_linetable, socket.socket]
assert all(map(is_immortal, everything)), [one for one in everything if not is_immortal(one)]
before = [count(one) for one in everything]
more = [list(everything) for _ in range(1000)]
more.clear()
assert [count(one) for one in everything] == before
assert not is_immortal(more), "what is made later is counted"
assert immortal.make_immortal(word) < made / 4, "the second time only what is new"
"""
    )


@needs_them
def test_what_does_something_when_it_ends_stays_mortal_and_does_it():
    check_runs(
        """
def generate():
    yield 1
generator = generate(); next(generator)
try:
    raise ValueError
except ValueError as error:
    caught = error
ours, theirs = socket.socketpair()
file = open(os.devnull, "rb", buffering=0)
view = memoryview(bytearray(8))
frame = sys._getframe()
ending = [generator, caught, caught.__traceback__, ours, theirs, file, view, frame]
immortal.make_immortal(word)
assert not any(map(is_immortal, ending)), [one for one in ending if is_immortal(one)]
assert is_immortal(ending)
descriptor = file.fileno()
ending.clear()
import warnings
warnings.simplefilter("ignore")
del file
try:
    os.fstat(descriptor)
except OSError:
    pass
else:
    raise AssertionError("it is still open")
"""
    )


@needs_them
def test_a_child_copies_a_small_part_of_the_pages_that_it_would_copy():
    check_runs(
        """
def private(path="/proc/self/smaps_rollup"):
    return next(int(line.split()[1]) for line in open(path) if line.startswith("Private_Dirty"))
def copied():
    read, write = os.pipe()
    if os.fork() == 0:
        before = private()
        for one in kept:
            held = one
        os.write(write, str(private() - before).encode())
        os._exit(0)
    os.wait()
    return int(os.read(read, 100))
kept = [object() for _ in range(100_000)]
counted = copied()
assert counted > 1000, counted
immortal.make_immortal(word)
gc.freeze()
assert copied() < counted / 5
"""
    )


@needs_them
@pytest.mark.parametrize(
    ("end", "status"), [("", 0), ("raise ValueError('on purpose')", 1), ("os._exit(3)", 3)]
)
def test_a_process_with_an_immortal_heap_ends_as_any_other(end, status):
    done = run(
        f"""
import logging, weakref, json, threading
class Ends:
    def __del__(self):
        print("ended")
ends = Ends()
weak = weakref.ref(ends, lambda _: print("gone"))
immortal.make_immortal(word)
gc.freeze()
del ends
gc.collect()
assert weak() is not None
{end}
"""
    )
    assert done.returncode == status, done.stderr
    assert "Fatal" not in done.stderr
