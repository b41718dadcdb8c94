"""Files through which a worker and the supervisor meet."""
