"""Evaluation: everything that judges a learned optimizer."""
