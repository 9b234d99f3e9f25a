"""`python -m weights_tools` is `minidnn weights`."""

import sys

from weights_tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
