"""Linux primitives that both sides of a fork use: processes, control groups, files, credentials."""
