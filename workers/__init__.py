"""What runs in child processes: zygote, worker and script, synchroniser."""
