"""circusd, and a client that sleeps until the instant and then sends it one `start` after the
other: by a pattern it starts only what has `autostart`, and during one it refuses another.
See bare_loop.py."""

import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from circus.client import CircusClient

CONFIG = """
[circus]
endpoint = ipc://{0}/endpoint
pubsub_endpoint = ipc://{0}/pubsub
statsd = False
"""
WATCHER = """
[watcher:{0}]
cmd = {1}
args = {2}
autostart = False
respawn = False
"""


def configuration(directory: str, groups: list[dict[str, list[str]]]) -> str:
    text = CONFIG.format(directory)
    for group in groups:
        for name, (program, *rest) in group.items():
            text += WATCHER.format(name, program, shlex.join(rest))
    return text


def main(directory: str) -> None:
    groups = json.loads(sys.stdin.readline())
    config = Path(directory, "circus.ini")
    config.write_text(configuration(directory, groups))
    daemon = [str(Path(sys.executable).with_name("circusd")), "--log-level", "error", str(config)]
    with subprocess.Popen(daemon, stdout=subprocess.DEVNULL) as process:
        try:
            client = CircusClient(endpoint=f"ipc://{directory}/endpoint", timeout=20)
            client.send_message("list")
            print("ready", flush=True)
            instants = json.loads(sys.stdin.readline())
            print("taken", flush=True)
            for at_ns, names in sorted(zip(instants, map(list, groups), strict=True)):
                time.sleep(max(0, at_ns - time.time_ns()) / 1e9)
                for name in names:
                    client.send_message("start", name=name, match="simple", waiting=True)
            sys.stdin.read()
        finally:
            process.terminate()


with tempfile.TemporaryDirectory(prefix="gs-peer-", dir="/tmp") as place:
    main(place)
