"""A trained learned optimizer as a ``torch.optim.Optimizer``."""
