"""Optimizees of a third party."""
