"""Errors that are the user's to mend; the command line prints them as one line and exits with status 2."""


class MetaOptError(Exception):
    """A problem with what was asked for. The message says what was found and which option changes it."""


class OptimizeeError(MetaOptError):
    """An optimizee breaks its contract (see :class:`meta_opt.optimizees.contract.Optimizee`) or lacks its data."""


class RegistryError(MetaOptError):
    """A plugin name is unknown, claimed twice, or its plugin does not load."""


class CheckpointError(MetaOptError):
    """A checkpoint is missing, damaged, or not one of meta-opt's."""


class DivergedError(MetaOptError):
    """Meta-training met too many non-finite episodes in a row."""
