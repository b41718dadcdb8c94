"""The configuration file: sections, parsers, checks, and what is derived from it."""
