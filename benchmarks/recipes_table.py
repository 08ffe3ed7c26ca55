"""The table of docs/recipes.md: each published recipe, its size, input, batch, length and figure.

    python -m benchmarks.recipes_table

Networks are built without numbers (on `meta`), so this takes seconds.
"""

from __future__ import annotations

import torch

from marey.configs.load import read_preset, run_config
from marey.configs.recipes import published, recipe_of
from marey.configs.schema import RunConfig
from marey.models.encoders.encoder import Encoder
from marey.models.method import find_method

HEAD = (
    "| recipe | encoder | parameters: ours | published | input | batch | length | reported | "
    "trained on | source |\n" + "|---" * 10 + "|"
)


def encoder_parameters(config: RunConfig) -> int:
    """Those of a recipe's encoder."""
    with torch.device("meta"):
        encoder = Encoder(config.encoder)
    return sum(parameter.numel() for parameter in encoder.parameters())


def row(name: str, count: int | None = None) -> str:
    """One recipe's row. count: of the encoder's parameters, where it is known."""
    tree = read_preset(name)
    config = run_config(tree, find_method(tree["name"]).Config)
    count = encoder_parameters(config) if count is None else count
    recipe, sizes, trainer = recipe_of(name), config.encoder, config.trainer
    if recipe is None:
        raise ValueError(f"{name} is no published recipe")
    clip = f"{sizes.clip_frames} frames, " if sizes.clip_frames > 1 else ""
    length = f"{trainer.steps:,} steps" if trainer.steps else f"{trainer.epochs:,} epochs"
    cells = [
        f"`{name}`", f"`{sizes.backbone}`", f"{count:,}", recipe.parameters,
        f"{clip}{sizes.image_size} px", f"{trainer.batch_size:,}", length, recipe.figure,
        recipe.hardware, recipe.source,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    print(HEAD)
    for name in published():
        print(row(name))


if __name__ == "__main__":
    main()
