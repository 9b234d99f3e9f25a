"""`python -m minidnn` is `minidnn`."""

import sys

from minidnn.cli.main import main

sys.exit(main())
