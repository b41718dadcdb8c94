"""Pulls and reports: ordering, deadlines, back-off, applying, comparing."""
