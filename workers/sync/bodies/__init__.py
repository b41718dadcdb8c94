"""Bodies of requests and responses: snapshots, reports."""
