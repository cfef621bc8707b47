"""Estimators of the meta-gradient ∂L/∂φ over one unroll, one per file."""
