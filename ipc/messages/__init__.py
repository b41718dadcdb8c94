"""The messages of each channel between our processes, one file a channel."""
