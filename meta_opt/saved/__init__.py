"""What outlives a process: checkpoints, what they hold, and where a run keeps them."""
