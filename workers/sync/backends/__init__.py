"""Kinds of backend, a module each; `ipc/backends.py` lists them."""
