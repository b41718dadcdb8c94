"""Exchanges with the backend, as the supervisor orders and applies them."""
