"""``python -m meta_opt.cli``, the same as ``meta-opt``."""

import sys

from meta_opt.cli import main

if __name__ == "__main__":
    sys.exit(main())
