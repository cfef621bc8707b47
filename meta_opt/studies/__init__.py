"""Studies: many runs of meta-training that differ in some options, what they reached, and the figure of it."""
