"""How well does a run solve its pretext task on held-out data?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
import yaml

from marey.configs import plugins
from marey.configs.errors import InputError
from marey.configs.evaluation import PretextSettings
from marey.configs.load import run_config
from marey.configs.renamed import renamed
from marey.configs.schema import RunConfig
from marey.models.encoders.modes import evaluating
from marey.models.method import Corpus, Method, find_method
from marey.pipeline.data.source import Source, open_source
from marey.pipeline.evaluate.protocols import Inputs
from marey.pipeline.runtime.progress import each
from marey.pipeline.runtime.storage import Folder, absolute
from marey.pipeline.stream.plan import Plan, make_plan
from marey.pipeline.stream.samples import Sample, batches, stream_here
from marey.pipeline.training.checkpoint import load_state, method_weights
from marey.pipeline.training.collate import collate
from marey.pipeline.training.job import build_method

MIXED = 512
"""Samples that are shuffled together, so that a batch holds several videos."""


@dataclass(frozen=True, slots=True)
class Pretext:
    """A run's metrics on other data, means over batches of the run's own size (`mean_metrics`)."""

    trained: dict[str, float]
    untrained: dict[str, float]
    """The same with the weights before training."""
    chance: dict[str, float]
    run: str
    data: str
    samples: int

    def figures(self) -> dict[str, Any]:
        """As every protocol of `marey eval` gives them; chance beside the metrics that have it."""
        level = {f"{name}_chance": value for name, value in self.chance.items()}
        return {
            "protocol": "pretext",
            "figures": dict(sorted({**self.trained, **level}.items())),
            "baseline": self.untrained,
            "embeddings": {"location": f"{self.data}, {self.run}", "samples": self.samples},
        }


def run_pretext(inputs: Inputs, settings: PretextSettings) -> dict[str, Any]:
    """The protocol of `marey eval pretext`: target is the run, data what it is scored on."""
    assert inputs.data is not None  # `required` of the protocol
    found = pretext(inputs.target, inputs.data, samples=settings.samples, seed=settings.seed)
    return found.figures()


def pretext(
    run: str, data: str, *, samples: int = PretextSettings().samples, seed: int = 0
) -> Pretext:
    """Score the method of a run on up to `samples` samples of other data, without training.

    run: a run folder; data: what `--data` may be, e.g. the index of videos held out. Networks are
    in eval mode; samples and augmentation are those of training, drawn with `seed`. Metrics of
    methods with a memory bank say nothing here, since the bank holds other samples.

    Raises InputError when the folder holds no checkpoint or the data give no sample.
    """
    folder = Folder(absolute(run))
    state = load_state(folder)
    if state is None:
        raise InputError(f"{run} holds no checkpoint; is it the folder of a marey run?")
    settings = yaml.safe_load(folder.read("config.yaml"))
    tree = renamed(settings["config"])
    plugins.need(tree.get("plugins") or [], f"{run}/config.yaml")
    name = tree["name"]
    config = run_config(tree, find_method(name).Config)
    source = open_source(absolute(data))
    sampling = find_method(name).samples(config.method)
    plan = make_plan(source, sampling, seed=seed, epochs=1)
    plan.epochs = -(-samples // plan.samples_per_epoch)
    corpus = Corpus(settings["provenance"]["places"], settings["provenance"]["classes"])
    method = build_method(config)
    method.prepare(corpus)
    method = method.to("cuda" if torch.cuda.is_available() else "cpu")
    places = class_places(settings["provenance"].get("class_names"), source)
    untrained = _score(method, config, plan, source, samples, seed, "untrained", places)
    method.load_state_dict(method_weights(folder, state))
    trained = _score(method, config, plan, source, samples, seed, "trained", places)
    return Pretext(trained, untrained, dict(method.chance), run, data, samples)


def _score(
    method: Method,
    config: RunConfig,
    plan: Plan,
    source: Source,
    samples: int,
    seed: int,
    weights: str,
    places: torch.Tensor | None,
) -> dict[str, float]:
    scored: list[tuple[dict[str, float], int]] = []
    device = next(method.parameters()).device
    most = samples // (config.trainer.batch_size // config.trainer.accumulate)
    with evaluating(method), _own_draws(seed, device):
        held_out = whole_batches(config, plan, source, samples)
        for batch in each(held_out, f"pretext, {weights} weights", "batches", most):
            tensors = collate(batch, device)
            if places is not None and "class_id" in tensors:
                tensors["class_id"] = places.to(device)[tensors["class_id"]]
            values = method(method.augment(tensors))
            scored.append(({name: float(value) for name, value in values.items()}, len(batch)))
    if not scored:
        raise InputError(f"{source.location} gives no whole batch of {config.trainer.batch_size}")
    return mean_metrics(scored)


def class_places(names: Sequence[Any] | None, source: Source) -> torch.Tensor | None:
    """The run's number of each class of other data, int64 [C + 1]; -1 for a class that the run does
    not know, and, in the last place, for no class. None where either side has no names."""
    others = getattr(source, "classes", ())
    if not names or not others:
        return None
    number = {name: place for place, name in enumerate(names)}
    return torch.tensor([*(number.get(name, -1) for name in others), -1])


def mean_metrics(batches: Sequence[tuple[dict[str, float], int]]) -> dict[str, float]:
    """Means of metrics over batches, each with its number of samples.

    A batch weighs as much as it has samples that count: where a metric `valid` tells their share,
    the others speak of these only. Where no sample of any batch counts, batches weigh as much as
    they have samples. Values that are not finite are left out, and metrics that have no other.
    """
    means = {}
    for name in dict.fromkeys(name for values, _ in batches for name in values):
        finite = [both for both in batches if math.isfinite(both[0].get(name, math.nan))]
        sizes = [size for _, size in finite]
        shares = [1.0 if name == "valid" else values.get("valid", 1.0) for values, _ in finite]
        weights = [size * share for size, share in zip(sizes, shares, strict=True)]
        if finite:
            found = [values[name] for values, _ in finite]
            means[name] = float(np.average(found, weights=weights if any(weights) else sizes))
    return means


def whole_batches(
    config: RunConfig, plan: Plan, source: Source, samples: int
) -> Iterator[list[Sample]]:
    """The first samples of a plan, in batches of the run's own size, of several videos each.

    Whole batches only: many metrics depend on the number of candidates.
    """
    read = (sample for sample in stream_here(plan, source, config.data) if not sample["refused"])
    size = config.trainer.batch_size // config.trainer.accumulate
    for held in batches(islice(read, samples), max(MIXED, size)):
        order = torch.randperm(len(held)).tolist()
        mixed = [held[n] for n in order]
        yield from (batch for batch in batches(mixed, size) if len(batch) == size)


@contextmanager
def _own_draws(seed: int, device: torch.device) -> Iterator[None]:
    """Random draws inside are those of a seed; outside nothing changes."""
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.manual_seed(seed)
        yield
