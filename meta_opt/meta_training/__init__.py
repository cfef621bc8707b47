"""Meta-training: everything that changes φ."""
