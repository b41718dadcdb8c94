"""What passes between processes: the words, the wire, and the client that speaks it."""
