"""One module for each kind of backend."""
