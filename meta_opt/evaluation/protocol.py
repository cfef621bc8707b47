"""Numbers of the protocol of comparisons, for those who must not wait for torch."""

FEWEST_VALIDATION_PROBLEMS = 32  # that baselines are tuned on by default; on few a rate may be best that is far off
