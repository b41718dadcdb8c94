"""Bodies of messages exchanged with a backend."""
