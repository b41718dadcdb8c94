"""Configuration file: sections, parsers, checks, derived settings."""
