"""The tables of daemonDB: schema, codec, and one module for each table."""
