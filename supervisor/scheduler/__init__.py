"""Scheduler of actions: the agenda of edges and holds, the queue for slots, the lookahead."""
