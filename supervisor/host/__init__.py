"""Facilities of the host: child processes, clocks, locks, logs, service manager."""
