"""Decisions: pure functions over values. No clock, no I/O, no logging, no randomness."""
