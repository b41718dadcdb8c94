"""Exchanges with the backend: orders, deadlines, back-off, applying, comparing, reporting."""
