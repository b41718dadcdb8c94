"""The host as the daemon meets it: child processes, clocks, locks, logs, service manager."""
