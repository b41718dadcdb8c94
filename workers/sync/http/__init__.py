"""HTTP client with bounds: deadline, strict framing, errors, secrets in files."""
