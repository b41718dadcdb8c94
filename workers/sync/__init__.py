"""The synchroniser: all exchanges with a backend."""
