"""Messages between our processes, one module a channel."""
