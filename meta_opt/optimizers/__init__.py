"""Learned optimizers: the contract and one architecture per file."""
