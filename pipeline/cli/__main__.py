"""`python -m marey.pipeline.cli`: the `marey` command."""

import sys

from marey.pipeline.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
