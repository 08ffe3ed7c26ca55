"""What `marey estimate` does and says."""

from __future__ import annotations

import argparse
import sys
from pathlib import PurePath

from marey.configs.errors import UsageError
from marey.pipeline.cli.outcome import DONE, Result
from marey.pipeline.runtime.telling import now


def estimate(options: argparse.Namespace) -> Result:
    """Say what a run would take, without starting it."""
    from marey.configs.load import preset_with, run_config
    from marey.pipeline.cli.declared import check_run
    from marey.pipeline.cli.locations import check_data

    if options.gpus < 0:
        raise UsageError(f"--gpus {options.gpus}: a number of GPUs, or 0 for the CPU")
    if options.tflops is not None and not options.tflops > 0:
        raise UsageError(f"--tflops {options.tflops}: a positive number is needed")
    now("reading the data and planning the samples")
    tree = preset_with(options.method, options.settings)
    check_run(tree)
    check_data(options.data)
    from marey.models.method import find_method
    from marey.pipeline.training.estimate import CPU_TFLOPS, TFLOPS
    from marey.pipeline.training.estimate import estimate as estimate_run

    config = run_config(tree, find_method(tree["name"]).Config)
    rate = options.tflops or (TFLOPS if options.gpus else CPU_TFLOPS)
    found = estimate_run(config, options.data, gpus=options.gpus, tflops=rate)
    lines = [recipe_line(PurePath(options.method).stem), *found.lines(config, options.gpus, rate)]
    print("\n".join(lines), file=sys.stderr if options.json else sys.stdout)
    return DONE, found.figures()


def recipe_line(preset: str) -> str:
    """Which recipe runs; where a GPU is there and the small one was asked for, the other's name."""
    import torch

    from marey.configs.recipes import SMALL_HARDWARE, presets, recipe_of, recipes_of

    recipe = recipe_of(preset)
    if recipe is not None:
        return (
            f"recipe: {preset}, the published one ({recipe.source}); trained on {recipe.hardware}; "
            f"reported: {recipe.figure}"
        )
    if preset not in presets():
        return f"recipe: {preset}, settings of your own"
    line = f"recipe: {preset}, the small one, for {SMALL_HARDWARE}"
    large = recipes_of(preset)
    if large and torch.cuda.is_available():
        line += f"; this machine has a GPU: the published one is {' or '.join(large)}"
    return line
