"""A simulated host: a year of windows, faults and restarts in a second, from one seed.

The daemon's core, loop, store, pool and dealings with its backend are the real ones. Time,
chance, processes and the backend are simulated here. After every step the rules of the
specification are checked (`oracle.py`, `rules.py`).
"""
