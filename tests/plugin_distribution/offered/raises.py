from meta_opt.api import Optimizee

raise OSError("no luck today")


class Unlucky(Optimizee):
    """Looks well in its source."""
