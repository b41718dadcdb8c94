"""supervisord, and a client that sleeps until the instant and then asks it over its socket:
for one program by `startProcess`, for several by `startProcessGroup`. See bare_loop.py."""

import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xmlrpc.client import ServerProxy

from supervisor.xmlrpc import SupervisorTransport  # noqa: TID251 - the other one

CONFIG = """
[unix_http_server]
file={0}/socket
[supervisord]
nodaemon=true
logfile={0}/log
pidfile={0}/pid
childlogdir={0}
minfds=10000
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
PROGRAM = """
[program:{0}]
command={1}
autostart=false
autorestart=false
startsecs=0
stdout_logfile=NONE
stderr_logfile=NONE
"""


def configuration(directory: str, groups: list[dict[str, list[str]]]) -> str:
    text = CONFIG.format(directory)
    for number, group in enumerate(groups):
        text += f"[group:g{number}]\nprograms={','.join(group)}\n"
        for name, command in group.items():
            text += PROGRAM.format(name, shlex.join(command).replace("%", "%%"))
    return text


def main(directory: str) -> None:
    groups = json.loads(sys.stdin.readline())
    config = Path(directory, "conf")
    config.write_text(configuration(directory, groups))
    daemon = [str(Path(sys.executable).with_name("supervisord")), "-c", str(config)]
    with subprocess.Popen(daemon, stdout=subprocess.DEVNULL) as process:
        try:
            while not Path(directory, "socket").exists() and process.poll() is None:
                time.sleep(0.02)
            transport = SupervisorTransport(None, None, f"unix://{directory}/socket")
            server = ServerProxy("http://127.0.0.1", transport).supervisor
            server.getState()
            print("ready", flush=True)
            instants = json.loads(sys.stdin.readline())
            print("taken", flush=True)
            for at_ns, number in sorted(zip(instants, range(len(groups)), strict=True)):
                time.sleep(max(0, at_ns - time.time_ns()) / 1e9)
                if len(groups[number]) == 1:
                    server.startProcess(f"g{number}:{next(iter(groups[number]))}", False)
                else:
                    server.startProcessGroup(f"g{number}", False)
            sys.stdin.read()
        finally:
            process.terminate()


with tempfile.TemporaryDirectory(prefix="gs-peer-", dir="/tmp") as place:
    main(place)
