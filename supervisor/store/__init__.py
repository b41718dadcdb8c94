"""daemonDB, the store of the daemon: its files, its tables, and their repair after damage."""
