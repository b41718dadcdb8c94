"""Start of the daemon, before anything is decided: bootstrap, preflight, sweep."""
