"""`python -m disttune`."""

import sys

from disttune.cli import main

if __name__ == "__main__":
    sys.exit(main())
