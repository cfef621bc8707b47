import a_module_that_is_not_installed  # noqa: F401

from meta_opt.api import Optimizee


class Needy(Optimizee):
    """Needs what is not there."""
