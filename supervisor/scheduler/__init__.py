"""Which actions are due, queued or near, and when the loop looks again."""
