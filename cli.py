"""The command line from a checkout: ``python cli.py fit --optimizee mnist_mlp``."""

import sys
from importlib.metadata import PackageNotFoundError, distribution

if __name__ == "__main__":
    try:
        distribution("meta-opt")  # optimizees and optimizers are found through its entry points
    except PackageNotFoundError:
        sys.exit("meta-opt: error: the project is not installed; run: pip install -e .")
    from meta_opt.cli import main

    sys.exit(main())
