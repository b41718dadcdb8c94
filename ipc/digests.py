"""BLAKE2b without `hashlib`, whose import loads OpenSSL: 3 MB of memory for as long as the
process lives, and 6 ms of its start."""

try:
    from _blake2 import blake2b
except ImportError:  # an interpreter that keeps it elsewhere
    from hashlib import blake2b

__all__ = ["blake2b"]
