"""``python -m hpcml``: the command line, also where no script is installed."""

import sys

from hpcml.cli import main

if __name__ == "__main__":
    sys.exit(main())
