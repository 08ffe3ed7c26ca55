"""All methods side by side: same trunk, same budget, same evaluation; one command, resumable.

    python -m benchmarks.methods images --train TABLE --test TABLE -o FOLDER [--epochs 8]
    python -m benchmarks.methods events --train INDEX --test INDEX --labels FOLDER -o FOLDER
    python -m benchmarks.methods videos --train INDEX --test INDEX -o FOLDER
    (each with [--only PRESET,PRESET] [--seeds 0,1,2] [--parallel 2] [--table] [--plot FILE.svg]
    [--curves FOLDER] [key=value ...])

- images: labelled images; every preset that trains on single frames. kNN and linear accuracy.
- events: synchronised views; every preset that trains on videos. Alignment error, phase error and
  Kendall's tau on held-out events; budget counted in decoded frames.
- videos: every preset, on single videos: the pretext metric on videos not trained on.

Each (preset, seed) is a run of `marey train`, then `marey embed` and `marey eval`, in processes of
their own with `cores / parallel` threads each. What is finished is kept: the same command goes on
where it was stopped, and refuses a folder whose results were asked for with other settings or data.
`--table` prints what there is, and runs nothing. `--plot` draws the table as
bars, `--curves` the pretext metric of every preset over its steps.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.methods_charts import plot, write_curves
from benchmarks.methods_results import (
    HELD_OUT,
    Arm,
    Figures,
    Result,
    by_preset,
    training,
)
from benchmarks.methods_table import table
from marey.configs.load import flat, override, presets, read_preset, run_config
from marey.configs.schema import RunConfig
from marey.models.method import methods
from marey.pipeline.cli.outcome import DONE, REFUSED
from marey.pipeline.data.source import open_source
from marey.pipeline.embedding.folder_meta import is_whole
from marey.pipeline.runtime.cores import default_workers
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.sampling import build_sampler
from marey.pipeline.training.record import UNTRAINED

FAILED = "failed.txt"
ASKED = "asked.json"
"""The data and settings that an arm's folder is for."""
LOCKS: dict[str, threading.Lock] = {}


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of an encoder, and what chance would have of each, where that is known."""

    figures: Figures
    chance: Figures


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("suite", choices=list(SUITES))
    parser.add_argument("--train", help="data to train on")
    parser.add_argument("--test", help="data to evaluate on")
    parser.add_argument("--labels")
    parser.add_argument("-o", "--out", required=True, type=Path)
    parser.add_argument("--only", type=_words, default=[], help="presets, comma between")
    parser.add_argument("--without", type=_words, default=[], help="presets, comma between")
    parser.add_argument("--seeds", type=_words, default=["0"], help="e.g. 0,1,2")
    parser.add_argument("--epochs", type=int, default=8, help="of images")
    parser.add_argument("--frames", type=int, default=40_000, help="decoded for training on videos")
    parser.add_argument("--parallel", type=int, default=default_workers())
    parser.add_argument("--table", action="store_true", help="of what there is; run nothing")
    parser.add_argument("--plot", type=Path, help="SVG file to draw the table in")
    parser.add_argument("--curves", type=Path, help="folder for one SVG a preset")
    options, options.settings = parser.parse_known_args()
    if wrong := [word for word in options.settings if "=" not in word or word.startswith("-")]:
        parser.error(f"neither an option nor key=value: {' '.join(wrong)}")
    if not options.table and not (options.train and options.test):
        parser.error("--train and --test are needed to run anything")
    names = [n for n in options.only or chosen(options.suite) if n not in options.without]
    arms = [Arm(n, int(s), options.out / f"{n}-{s}") for s in options.seeds for n in names]
    if not options.table:
        for arm in arms:
            claim(arm, options)
        with ThreadPoolExecutor(options.parallel) as pool:
            list(pool.map(lambda arm: run_arm(arm, options), arms))
    finished = [arm for arm in arms if arm.result.exists()]
    if not finished:
        print("nothing has finished")
        return
    rows = by_preset(finished)
    print(table(options.suite, rows))
    if options.plot:
        options.plot.write_text(plot(rows, known_chance(finished, options)))
    if options.curves:
        write_curves(finished, options.curves)
    if not options.table and len(finished) < len(arms):
        missing = ", ".join(f"{a.preset}-{a.seed}" for a in arms if a not in finished)
        raise SystemExit(f"without a result: {missing} (see {FAILED} in their folders)")


def _words(text: str) -> list[str]:
    return text.split(",")


def chosen(suite: str) -> list[str]:
    """The presets that a suite compares."""
    kinds = {name: sampling_of(preset_config(name, [])).kind for name in presets()}
    del kinds["demo"]
    if suite == "images":
        return [name for name, kind in kinds.items() if kind == "frames"]
    if suite == "events":
        return [name for name, kind in kinds.items() if kind not in ("frames", "tracks")]
    return [name for name, kind in kinds.items() if kind not in ("view_pairs", "tracks")]


def preset_config(name: str, words: list[str]) -> RunConfig:
    """A preset with `key=value` words, checked."""
    tree = override(read_preset(name), words)
    return run_config(tree, methods()[tree["name"]].Config)


def sampling_of(config: RunConfig) -> Any:
    """What the preset's method samples."""
    return methods()[config.name].samples(config.method)


def budget(suite: str, name: str, options: argparse.Namespace) -> list[str]:
    """The words that give every preset of a suite the same number of images."""
    config = preset_config(name, options.settings)
    if suite == "images":
        if sampling_of(config).labelled_part is None:
            return [f"trainer.epochs={options.epochs}"]
        images = options.epochs * len(open_source(options.train))  # some come several times
        steps = math.ceil(images / config.trainer.batch_size)
        return [f"trainer.steps={steps}", "trainer.epochs=100000"]
    each = build_sampler(sampling_of(config)).num_frames * config.trainer.batch_size
    return [f"trainer.steps={math.ceil(options.frames / each)}", "trainer.epochs=100000"]


def words_of(arm: Arm, options: argparse.Namespace) -> list[str]:
    """The `key=value` words of an arm's training."""
    own = [f"trainer.seed={arm.seed}", *budget(options.suite, arm.preset, options)]
    return [*own, *options.settings]


def claim(arm: Arm, options: argparse.Namespace) -> None:
    """Note what an arm's folder is for. Ends the program when it is for something else."""
    asked = {
        "preset": preset_config(arm.preset, words_of(arm, options)).model_dump(mode="json"),
        "train": str(Path(options.train).absolute()),
        "test": str(Path(options.test).absolute()),
        "labels": options.labels and str(Path(options.labels).absolute()),
    }
    note = arm.folder / ASKED
    if note.exists():
        before = flat(json.loads(note.read_text()))
        now = flat(asked)
        changed = sorted(k for k in before | now if before.get(k) != now.get(k))
        if changed:
            key = changed[0]
            raise SystemExit(
                f"{arm.folder} holds results with {key} = {before.get(key)!r}, not "
                f"{now.get(key)!r}: give another -o"
            )
        return
    arm.folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(asked))


def run_arm(arm: Arm, options: argparse.Namespace) -> None:
    """Train, embed and evaluate; write the result last. A failure is kept as text beside it."""
    if arm.result.exists():
        return
    try:
        run = arm.run
        if not (run / "summary.json").exists():
            resume = ["--resume"] if (run / "config.yaml").exists() else []
            marey(options, "train", arm.preset, "--data", options.train, "-o", str(run),
                  "--engine", "local", *resume, *words_of(arm, options))  # fmt: skip
        result = {**training(run), **SUITES[options.suite](arm, run, options)}
        arm.result.write_text(json.dumps(result, indent=1))
        print(f"{arm.preset}, seed {arm.seed}: {result['figures']}", flush=True)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "").strip()
        (arm.folder / FAILED).write_text(said)
        print(f"{arm.preset}, seed {arm.seed}: {said.splitlines()[-1:]}", flush=True)


def marey(options: argparse.Namespace, *words: str) -> str:
    """One marey command in a process of its own; what it printed."""
    threads = str(max(1, default_workers() // options.parallel))
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    done = subprocess.run(
        [sys.executable, "-m", "marey", *words],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode not in (DONE, REFUSED):
        raise subprocess.CalledProcessError(done.returncode, words, done.stdout, done.stderr)
    return done.stdout


def embedded(encoder: Path, data: str, out: Path, options: argparse.Namespace) -> str:
    """Embeddings of every frame."""
    if not is_whole(Folder(out)):
        marey(options, "embed", str(encoder), "--data", data, "-o", str(out), "--fps", "0",
              "--engine", "local")  # fmt: skip
    return str(out)


def evaluated(options: argparse.Namespace, *words: str) -> dict[str, Any]:
    """The result of one `marey eval`."""
    return json.loads(marey(options, "eval", *words, "--json").splitlines()[-1])


def on_images(encoder: Path, folder: Path, options: argparse.Namespace) -> Measured:
    """kNN (k = 20) and linear accuracy."""
    test = embedded(encoder, options.test, folder / "test", options)
    train = embedded(encoder, options.train, folder / "train", options)
    knn = evaluated(options, "knn", test, "--gallery", train)["figures"]
    linear = evaluated(options, "linear", test, "--gallery", train, "penalties=5")["figures"]
    found = {"kNN accuracy": knn, "linear accuracy": linear}
    return Measured(
        {name: figures["accuracy"] for name, figures in found.items()},
        {name: figures["accuracy_chance"] for name, figures in found.items()},
    )


def on_events(encoder: Path, folder: Path, options: argparse.Namespace) -> Measured:
    """Alignment error, phase error and Kendall's tau."""
    test = embedded(encoder, options.test, folder / "test", options)
    words = ["--labels", options.labels] if options.labels else []
    found = evaluated(options, "alignment", test, *words)["figures"]
    figures = {
        "alignment error": found.get("alignment_error_symmetric"),
        "phase error": found.get("phase_error"),
        "Kendall's tau": found.get("kendall_tau"),
    }
    chance = {
        "alignment error": found.get("alignment_chance"),
        "phase error": found.get("phase_error_chance"),
        "Kendall's tau": 0.0,
    }
    return Measured(figures, chance)


def of_encoders(arm: Arm, run: Path, options: argparse.Namespace) -> Result:
    """Figures of the trained encoder and of the one that it started from.

    Runs that start from the same weights share the latter.
    """
    measure = MEASURES[options.suite]
    start = run / UNTRAINED
    digest = json.loads((start / "encoder.json").read_text())["sha256"][:12]
    shared = options.out / f"{UNTRAINED}-{digest}"
    with LOCKS.setdefault(digest, threading.Lock()):
        known = shared / "figures.json"
        if not known.exists():
            shared.mkdir(parents=True, exist_ok=True)
            known.write_text(json.dumps(measure(start, shared, options).figures))
    trained = measure(run, arm.folder, options)
    return {
        "figures": trained.figures,
        UNTRAINED: json.loads(known.read_text()),
        "chance": trained.chance,
    }


def on_videos(arm: Arm, run: Path, options: argparse.Namespace) -> Result:
    """The pretext metric on videos that were not trained on."""
    from marey.pipeline.training.pretext import pretext

    found = pretext(str(run), options.test)
    name = next(iter(found.chance), "loss")
    return {
        "metric": name,
        "figures": {HELD_OUT: found.trained[name]},
        UNTRAINED: {HELD_OUT: found.untrained[name]},
        "chance": {HELD_OUT: found.chance.get(name)},
    }


MEASURES = {"images": on_images, "events": on_events}
SUITES = {"images": of_encoders, "events": of_encoders, "videos": on_videos}


def known_chance(arms: list[Arm], options: argparse.Namespace) -> Figures:
    """Chance by figure, for results of earlier versions, which did not keep it.

    It depends on the data alone, so one arm's embeddings tell it for all, if they are still there.
    """
    measure = MEASURES.get(options.suite)
    kept = [arm for arm in arms if is_whole(Folder(arm.folder / "test"))]
    if measure is None or not kept or all(arm.read()["chance"] for arm in arms):
        return {}
    return measure(kept[0].run, kept[0].folder, options).chance


if __name__ == "__main__":
    main()
