"""Authentication towards a backend: bearer tokens, OAuth 2.0, device login."""
