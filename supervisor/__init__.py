"""The daemon itself: one process, one thread."""
