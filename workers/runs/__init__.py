"""A run in its worker: launch, watch, stop."""
