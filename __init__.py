"""geosched: runs action scripts for exact windows of time on unattended Linux hosts.

This package holds no code of its own: `ipc` is what passes between processes,
`workers` what runs in child processes, `supervisor` the daemon.
"""

__version__ = "0.1.0"

#: The day this version was made. A clock that reads earlier is wrong (SPEC S19).
RELEASED = "2026-11-23T00:00:00.000Z"
