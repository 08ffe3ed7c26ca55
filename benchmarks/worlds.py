"""Does every preset learn where it must? Each is trained, as it ships, on a world of its own.

    python -m benchmarks.worlds -o FOLDER [--only PRESET,PRESET] [--seeds 0,1,2] [--control]
    [--ceiling] [--steps N] [--table] [key=value ...]

A world (`pipeline/synthetic/worlds.py`) asks the preset's question with one right answer. Sampling,
augmentation, encoder and optimiser are the preset's; only the length of the run is set in
`world_tasks.py`. Printed for each: chance; the ceiling, which is what an oracle reads from held-out
samples after the preset's own augmentation; the figure of the trained and the untrained weights on
held-out videos, and the share of the way from chance to ceiling that was gone; R2 of a ridge
regression of the state (the hand's height or place) from single frames (or clips) under the trained
and the untrained encoder. `--control` trains on the world with the frames of each video, or the
blocks of each picture, in random order, where nothing can be learned: its figure must stay at
chance. `--ceiling` asks the oracle
only.

What is finished is kept: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks import world_oracles as oracles
from benchmarks.methods_results import HELD_OUT
from benchmarks.picture_crops import Crops
from benchmarks.world_tasks import RETRIEVAL, TASKS
from marey.configs.load import override, read_preset, run_config
from marey.configs.schema import RunConfig
from marey.models.batch import Batch
from marey.models.encoders.modes import evaluating
from marey.models.method import Corpus, Method, methods
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.data.source import open_source
from marey.pipeline.embedding.embed import embed
from marey.pipeline.embedding.folder_meta import is_whole
from marey.pipeline.evaluate.run import run_eval
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.plan import make_plan
from marey.pipeline.synthetic.picture_worlds import Wander, make_pictures, write_sequence
from marey.pipeline.synthetic.worlds import SECONDS, SIZE, VIEWS, make_world
from marey.pipeline.training.checkpoint import load_state
from marey.pipeline.training.job import build_method
from marey.pipeline.training.launch import prepare, run_training
from marey.pipeline.training.pretext import pretext, whole_batches
from marey.pipeline.training.record import UNTRAINED
from marey.pipeline.training.trainer import collate

SAMPLES = 480
"""Held-out samples that figures and ceilings are taken from."""
STILLS = 768
"""The same where samples are stills, whose batches are larger."""
TAUGHT = 10_240
"""Training samples, augmented, that an oracle may look among."""
SEQUENCES, SEQUENCE = 6, "sequences"
"""How many sequences with boxes there are of what wanders, and their folder."""
EMBEDDED_PER_S = 5.0
"""Frames of a second that are embedded for the regression of the state."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One training: a preset on its world, or on that world's control."""

    preset: str
    seed: int
    control: bool
    folder: Path

    @property
    def result(self) -> Path:
        """The figures, once they are there."""
        return self.folder / "result.json"


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("-o", "--out", required=True, type=Path)
    parser.add_argument("--only", type=_words, default=list(TASKS), help="presets, comma between")
    parser.add_argument("--seeds", type=_words, default=["0"], help="e.g. 0,1,2")
    parser.add_argument("--control", action="store_true", help="also on scrambled videos")
    parser.add_argument("--ceiling", action="store_true", help="the oracle only; train nothing")
    parser.add_argument("--steps", type=int, help="instead of each preset's own")
    parser.add_argument("--table", action="store_true", help="of what there is; run nothing")
    options, words = parser.parse_known_args()
    if wrong := [word for word in words if "=" not in word or word.startswith("-")]:
        parser.error(f"neither an option nor key=value: {' '.join(wrong)}")
    torch.set_num_threads(1)
    kinds = (False, True) if options.control else (False,)
    arms = [
        Arm(name, int(seed), control, options.out / f"{name}-{seed}{'-control' * control}")
        for name in options.only
        for seed in options.seeds
        for control in kinds
    ]
    if options.ceiling:
        for arm in arms:
            config = arm_config(arm, options.steps, words)
            print(f"{arm.folder.name:28} {ceiling(arm, config, options.out):.3f}", flush=True)
        return
    for arm in arms:
        if not arm.result.exists() and not options.table:
            found = measure(arm, arm_config(arm, options.steps, words), options.out)
            arm.result.write_text(json.dumps(found, indent=1))
            print(line(arm, found), flush=True)
    print(table([arm for arm in arms if arm.result.exists()]))


def _words(text: str) -> list[str]:
    return text.split(",")


def arm_config(arm: Arm, steps: int | None, words: list[str]) -> RunConfig:
    """The preset with the length of its run here."""
    length = steps or TASKS[arm.preset].steps
    fixed = [f"trainer.steps={length}", "trainer.epochs=100000", f"trainer.seed={arm.seed}"]
    tree = override(read_preset(arm.preset), [*fixed, *words])
    return run_config(tree, methods()[tree["name"]].Config)


def indexed_world(arm: Arm, out: Path) -> tuple[str, str, str]:
    """(training data, held-out data, table of states) of the arm's world, made when missing."""
    task = TASKS[arm.preset]
    if task.pictures:
        folder = out / "worlds" / f"{task.world}-{arm.seed}{'-control' * arm.control}"
        if not (folder / "states.parquet").exists():
            make_pictures(task.world, folder, scrambled=arm.control, seed=arm.seed)
        return str(folder / "train"), str(folder / "test"), str(folder / "states.parquet")
    name = f"{task.world}-{task.views}-{arm.seed}{'-control' * arm.control}"
    folder = out / "worlds" / name
    indices = [folder / f"{part}.parquet" for part in ("train", "test")]
    if not all(index.exists() for index in indices):
        make_world(
            task.world, folder, views=task.views, scrambled=arm.control, seed=arm.seed
        )  # fmt: skip
        if task.world == "wander":
            for event in range(SEQUENCES):
                path = folder / SEQUENCE / f"wander{event}"
                shown = Wander.draw(np.random.default_rng([arm.seed, 10_000 + event]))
                write_sequence(path, shown, np.arange(SECONDS * 5) / 5, SIZE, event)
        for part, index in zip(("train", "test"), indices, strict=True):
            write_index(make_index([str(folder / part)], views=VIEWS), str(index))
    return str(indices[0]), str(indices[1]), str(folder / "states.parquet")


def ceiling(arm: Arm, config: RunConfig, out: Path, run: str | None = None) -> float:
    """The oracle's mean figure on held-out samples, augmented by the preset.

    run: a finished run, whose vocabularies and counts the oracle answers in.
    """
    train, test, _ = indexed_world(arm, out)
    task = TASKS[arm.preset]
    if task.metric == RETRIEVAL:
        return Crops.of(Path(test), SAMPLES).ceiling()
    method = method_of(config, test, run)
    if task.taught is not None:
        oracle = task.taught(method, augmented(method, config, train, TAUGHT))
    else:
        assert task.oracle is not None
        oracle = task.oracle
    scores: list[oracles.Score] = []
    for batch in augmented(method, config, test, STILLS if task.pictures else SAMPLES):
        with torch.no_grad(), evaluating(method):
            scores.append(oracle(method, batch))
    values, counts = np.array(scores).T
    return float(np.average(values, weights=counts))


def method_of(config: RunConfig, data: str, run: str | None = None) -> Method:
    """The preset's method, with the weights of a run where one is given."""
    method = build_method(config)
    if run is None:
        plan = make_plan(
            open_source(data), type(method).samples(config.method), seed=0, epochs=1
        )  # fmt: skip
        method.prepare(Corpus(places=plan.samples_per_epoch))
        return method
    settings = yaml.safe_load(Folder(run).read("config.yaml"))
    method.prepare(Corpus(places=settings["provenance"]["places"]))
    state = load_state(Folder(run))
    assert state is not None  # the run has just been trained
    method.load_state_dict(state["method"])
    return method


def augmented(method: Method, config: RunConfig, data: str, samples: int) -> Iterator[Batch]:
    """Batches of so many samples, as the network gets them."""
    source = open_source(data)
    plan = make_plan(source, type(method).samples(config.method), seed=0, epochs=1)
    plan.epochs = -(-samples // plan.samples_per_epoch)
    torch.manual_seed(0)
    with torch.no_grad(), evaluating(method):
        for batch in whole_batches(config, plan, source, samples):
            yield method.augment(collate(batch, torch.device("cpu")))


def measure(arm: Arm, config: RunConfig, out: Path) -> dict[str, Any]:
    """Train, and take every figure of the table."""
    train, test, states = indexed_world(arm, out)
    run = str(arm.folder / "run")
    began = time.process_time()
    run_training(prepare(config, train, run, resume=(arm.folder / "run").exists()), engine="local")
    spent = time.process_time() - began
    return {
        "metric": TASKS[arm.preset].metric,
        "steps": config.trainer.steps,
        "cpu_s": round(spent, 1),
        **figures_of(arm, config, out, run, test),
        "r2": state_r2(run, arm, train, test, states),
        "r2_untrained": state_r2(f"{run}/{UNTRAINED}", arm, train, test, states),
    }


def figures_of(arm: Arm, config: RunConfig, out: Path, run: str, test: str) -> dict[str, Any]:
    """Chance, ceiling and the figure itself, trained and untrained."""
    metric = TASKS[arm.preset].metric
    if metric == RETRIEVAL:
        return Crops.of(Path(test), SAMPLES).figures(run, f"{run}/{UNTRAINED}")
    found = pretext(run, test, samples=STILLS if TASKS[arm.preset].pictures else SAMPLES)
    carried = {}
    sequences = Path(test).parent / SEQUENCE
    if sequences.exists():
        carried["propagation"] = run_eval(
            "propagation", run, data=sequences, baseline=f"{run}/{UNTRAINED}"
        )  # fmt: skip
    return {
        **carried,
        "chance": found.chance.get(metric, 0.0),
        "ceiling": ceiling(arm, config, out, run),
        HELD_OUT: found.trained[metric],
        UNTRAINED: found.untrained[metric],
        "all": found.trained,
    }


def state_r2(encoder: str, arm: Arm, train: str, test: str, states: str) -> float:
    """R2, on held-out videos, of the state from the encoder's embeddings."""
    folders = []
    for part, data in (("train", train), ("test", test)):
        folder = arm.folder / f"{part}-{Path(encoder).name}"
        if not is_whole(Folder(folder)):
            embed(encoder, data, str(folder), rate=EMBEDDED_PER_S, engine="local")
        folders.append(str(folder))
    figures = run_eval(
        "linear", folders[1], gallery=folders[0], labels=states, attribute="state"
    )["figures"]  # fmt: skip
    return float(figures["r2"])


def share_of_way(found: dict[str, Any]) -> float:
    """How much of the way from chance to the ceiling was gone."""
    way = found["ceiling"] - found["chance"]
    return (found[HELD_OUT] - found["chance"]) / way if abs(way) > 1e-6 else 0.0


def line(arm: Arm, found: dict[str, Any]) -> str:
    """One row of the table."""
    task = TASKS[arm.preset]
    name = f"{arm.preset}{' (control)' * arm.control}"
    return (
        f"| `{name}` | {task.world} | {found['metric']} | {found['chance']:.3f} | "
        f"{found['ceiling']:.3f} | {found[UNTRAINED]:.3f} | {found[HELD_OUT]:.3f} | "
        f"{share_of_way(found):.2f} | {found['r2_untrained']:.2f} | {found['r2']:.2f} | "
        f"{found['steps']} | {found['cpu_s']:.0f} |"
    )


def table(arms: list[Arm]) -> str:
    """All rows, in Markdown."""
    head = (
        "| preset | world | metric | chance | ceiling | untrained | trained | share | "
        "R2 untrained | R2 | steps | CPU s |\n|" + "---|" * 12
    )
    return "\n".join([head, *(line(arm, json.loads(arm.result.read_text())) for arm in arms)])


if __name__ == "__main__":
    main()
