"""A command that is interrupted ends at once, whoever reads what it printed."""

import os
import subprocess
import sys

LEAVES_SOMETHING_IN_ITS_BUFFER = """
import sys

import click
from geosched.ipc import standard_streams
from geosched.ipc.ctl import main

standard_streams.complete()


def interrupted(*_, **__):
    sys.stdout.write("left in the buffer")
    raise click.Abort


main.cli.main = interrupted
sys.exit(main.run([]))
"""


def test_it_does_not_wait_for_a_reader_that_reads_no_more():
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        try:
            while True:
                os.write(writer, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(writer, True)
        command = (sys.executable, "-c", LEAVES_SOMETHING_IN_ITS_BUFFER)
        done = subprocess.run(command, stdout=writer, timeout=20, check=False)
        assert done.returncode == 130
    finally:
        os.close(reader)
        os.close(writer)
