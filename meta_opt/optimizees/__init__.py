"""Optimizees: the contract, modules and data sets as optimizees, and B problems at once."""
