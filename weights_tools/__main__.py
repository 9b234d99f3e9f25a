"""`python -m weights_tools` is `minidnn weights`."""

import signal
import sys

from weights_tools.cli import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing half done is left behind
    sys.exit(main())
