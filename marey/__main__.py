"""`python -m marey`: the `marey` command, also in a checkout that is not installed."""

import sys

from marey.pipeline.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
