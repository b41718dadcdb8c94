"""Upkeep of daemonDB: retention and backups."""
