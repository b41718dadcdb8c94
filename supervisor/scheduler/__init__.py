"""The scheduler of actions: those that are due, queued or near."""
