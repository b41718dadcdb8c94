"""HTTP with bounds: client, deadline, framing, errors, secrets."""
