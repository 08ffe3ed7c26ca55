"""`python -m marey.pipeline.cli`: the `marey` command."""

from marey.pipeline.cli.main import command

if __name__ == "__main__":
    command()
