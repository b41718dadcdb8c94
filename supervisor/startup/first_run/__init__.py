"""First run on a host, before a daemon: its configuration, and a look at the host."""
