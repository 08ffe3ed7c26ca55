"""`python -m marey`: the `marey` command, also in a checkout that is not installed."""

from marey.pipeline.cli.main import command

if __name__ == "__main__":
    command()
