"""Synchroniser: exchanges with the backend, their authentication, transport and bodies."""
