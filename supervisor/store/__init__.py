"""daemonDB: what is on disk, how it is written, and what is done when it is damaged."""
