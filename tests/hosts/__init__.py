"""Trials on whole hosts: `make hosts`, as root. Each part is a host, or a way one fails in."""
