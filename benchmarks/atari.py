"""The Atari table: how much of a game's state does a linear probe find in the embedding of a frame?

    python -m benchmarks.atari record GAME[,GAME] -o FOLDER --ram atari_ram.json [--steps 50000]
    python -m benchmarks.atari train  GAME[,GAME] -o FOLDER --ram ... --preset cpc [key=value ...]
    python -m benchmarks.atari probe  GAME[,GAME] -o FOLDER [--preset random,cpc]
    python -m benchmarks.atari table  -o FOLDER

After Anand et al., *Unsupervised State Representation Learning in Atari*, NeurIPS 2019, arXiv
1906.08226: the same agent, labels, network (`encoder.backbone=nature`) and probe (`marey eval
states`), on lossless videos through the whole pipeline: index, train, embed, evaluate.

- record: episodes of a random agent (`atari_episodes.py`), one video each, and the states.
- train: a preset of marey with that network, on other episodes than those that are probed.
- probe: embeddings of every frame, and the probe; `random` is the network as it is made, and every
  result has the majority's answer beside it.
- table: F1 of what there is, beside the published figures.

What is there is kept, so that each command goes on where it was stopped. --ram: a JSON file, game
-> label -> {"ram": address, "category": ...}, as AtariARI lists them. `record` needs `ale-py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.atari_episodes import SIDE, record
from marey.configs.encoder import EncoderConfig
from marey.configs.load import override, read_preset, run_config
from marey.models.encoders.encoder import Encoder
from marey.models.method import methods
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.embedding.embed import embed
from marey.pipeline.embedding.encoder_files import export_encoder
from marey.pipeline.embedding.folder_meta import is_whole
from marey.pipeline.evaluate.run import run_eval
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.training.launch import prepare, run_training

PUBLISHED = {
    # majority, random network, CPC, ST-DIM, supervised (F1, random agent)
    "Asteroids": (0.28, 0.34, 0.42, 0.49, 0.52),
    "Berzerk": (0.18, 0.43, 0.56, 0.53, 0.68),
    "Bowling": (0.33, 0.48, 0.90, 0.96, 0.95),
    "Boxing": (0.01, 0.19, 0.29, 0.58, 0.83),
    "Breakout": (0.17, 0.51, 0.74, 0.88, 0.94),
    "DemonAttack": (0.16, 0.26, 0.57, 0.69, 0.83),
    "Freeway": (0.01, 0.50, 0.47, 0.81, 0.98),
    "Frostbite": (0.08, 0.57, 0.76, 0.75, 0.85),
    "Hero": (0.22, 0.75, 0.90, 0.93, 0.98),
    "MontezumaRevenge": (0.08, 0.68, 0.75, 0.78, 0.87),
    "MsPacman": (0.10, 0.48, 0.65, 0.70, 0.87),
    "Pitfall": (0.07, 0.34, 0.46, 0.60, 0.83),
    "Pong": (0.10, 0.17, 0.71, 0.81, 0.87),
    "PrivateEye": (0.23, 0.70, 0.81, 0.91, 0.97),
    "Qbert": (0.29, 0.49, 0.65, 0.73, 0.76),
    "Riverraid": (0.04, 0.34, 0.40, 0.36, 0.57),
    "Seaquest": (0.29, 0.57, 0.66, 0.67, 0.85),
    "SpaceInvaders": (0.14, 0.41, 0.54, 0.57, 0.75),
    "Tennis": (0.09, 0.41, 0.60, 0.60, 0.81),
    "Venture": (0.09, 0.36, 0.51, 0.58, 0.68),
    "VideoPinball": (0.09, 0.37, 0.58, 0.61, 0.82),
    "YarsRevenge": (0.01, 0.22, 0.39, 0.42, 0.74),
}
NETWORK = {
    "backbone": "nature",
    "image_size": SIDE,
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
}
RANDOM = "random"
PROBED, TRAINED_ON = "probed", "trained_on"
"""Folders of the episodes that are probed, and of those that presets train on."""


def main() -> None:
    """One of the four commands."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("command", choices=("record", "train", "probe", "table"))
    parser.add_argument("games", nargs="?", default="", help="comma between")
    parser.add_argument("-o", "--out", required=True, type=Path)
    parser.add_argument("--ram", type=Path, help="addresses of the labels, JSON")
    parser.add_argument("--steps", type=int, default=50_000, help="agent steps that are recorded")
    parser.add_argument("--preset", default=RANDOM, help="comma between; random: no training")
    parser.add_argument("--seed", type=int, default=0)
    options, words = parser.parse_known_args()
    torch.set_num_threads(1)
    if options.command == "table":
        print(table(options.out))
        return
    for game in options.games.split(","):
        if game not in PUBLISHED:
            parser.error(f"{game!r} is not in the published table: {', '.join(PUBLISHED)}")
        if options.command == "record":
            record_game(game, PROBED, options)
            continue
        for preset in options.preset.split(","):
            if options.command == "train":
                train(game, preset, words, options)
            else:
                probe(game, preset, options)


def record_game(game: str, part: str, options: argparse.Namespace) -> Path:
    """The index of a game's episodes, recorded where they are missing."""
    folder = options.out / game / part
    index = folder / "index.parquet"
    if not index.exists():
        if options.ram is None:
            raise SystemExit("--ram is needed to record: the addresses of the labels")
        ram = json.loads(options.ram.read_text())[game.lower()]
        # episodes that are trained on are others than those that are probed
        seed = 2 * options.seed + (part == TRAINED_ON)
        steps = options.steps * (2 if part == TRAINED_ON else 1)
        count = record(game, ram, folder / "videos", steps=steps, seed=seed)
        write_index(make_index([str(folder / "videos")]), str(index))
        print(f"{game}, {part}: {count} episodes")
    return index


def train(game: str, preset: str, words: list[str], options: argparse.Namespace) -> None:
    """A preset with the table's network, whatever encoder it ships with."""
    index = record_game(game, TRAINED_ON, options)
    tree = override(read_preset(preset), words)
    kept = {key: tree["encoder"][key] for key in ("unit_norm",) if key in tree["encoder"]}
    tree["encoder"] = {**NETWORK, **kept}
    tree.setdefault("data", {})["decode_size"] = SIDE
    config = run_config(tree, methods()[tree["name"]].Config)
    run = options.out / game / preset
    run_training(prepare(config, str(index), str(run), resume=run.exists()), engine="local")


def probe(game: str, preset: str, options: argparse.Namespace) -> None:
    """F1 of the states in a preset's embeddings of the game's probed episodes."""
    folder = options.out / game
    result = folder / f"{preset}.json"
    if result.exists():
        return
    if preset == RANDOM and not (folder / RANDOM / "encoder.json").exists():
        torch.manual_seed(options.seed)
        encoder = Encoder(EncoderConfig.model_validate(NETWORK))
        export_encoder(Folder(str(folder / RANDOM)), encoder, {"method": RANDOM})
    embeddings = folder / f"{preset}-embeddings"
    if not is_whole(Folder(embeddings)):
        index = folder / PROBED / "index.parquet"
        embed(str(folder / preset), str(index), str(embeddings), rate=0, engine="local")
    states = folder / PROBED / "videos" / "states.parquet"
    found = run_eval("states", str(embeddings), labels=states, seed=options.seed)["figures"]
    result.write_text(json.dumps(found, indent=1))
    print(f"{game}, {preset}: F1 {found['f1']:.3f} (majority {found['f1_chance']:.3f})")


def table(out: Path) -> str:
    """Every result, beside what was published, in Markdown."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(out.glob("*/*.json")):
        found.setdefault(file.parent.name, {})[file.stem] = json.loads(file.read_text())
    presets = sorted({name for results in found.values() for name in results} - {RANDOM})
    columns = ["majority", "(published)", RANDOM, "(published)", *presets, "CPC, published"]
    columns += ["ST-DIM, published", "test frames"]
    lines = [f"| game | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for game, results in found.items():
        majority, random, cpc, st_dim, _ = PUBLISHED[game]
        first = next(iter(results.values()))
        cells = [f"{first['f1_chance']:.2f}", f"{majority:.2f}", _f1(results, RANDOM)]
        cells += [f"{random:.2f}", *(_f1(results, name) for name in presets)]
        cells += [f"{cpc:.2f}", f"{st_dim:.2f}", str(first["test_frames"])]
        lines.append(f"| {game} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _f1(results: dict[str, Any], name: str) -> str:
    return f"{results[name]['f1']:.3f}" if name in results else ""


if __name__ == "__main__":
    main()
