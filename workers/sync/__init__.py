"""Synchroniser: all exchanges with a backend."""
