"""What tests share: waiting for conditions, building values, a backend to talk to."""
