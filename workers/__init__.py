"""The child processes of the daemon: zygote, workers with their scripts, synchroniser."""
