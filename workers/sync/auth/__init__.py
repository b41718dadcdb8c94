"""Authentication of the synchroniser towards a backend."""
