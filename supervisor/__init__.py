"""What runs in the daemon itself."""
