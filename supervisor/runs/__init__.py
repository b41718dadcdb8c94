"""Runs in the supervisor: the pool of workers, live runs, their orders, and their clean-up."""
