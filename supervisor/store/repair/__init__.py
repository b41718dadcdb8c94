"""Examination, validation and salvage of a store that may be damaged."""
