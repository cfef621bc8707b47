"""The inner loop: what happens while φ stands still."""
