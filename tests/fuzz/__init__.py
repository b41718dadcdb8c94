"""Foreign values at every edge: each is read, or is that edge's own error (SPEC S20)."""
