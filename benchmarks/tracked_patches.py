"""What do mined tracks teach? Patch retrieval across time on held-out videos, and CIFAR-10 kNN.

    python -m benchmarks.tracked_patches INDEX [--cifar FOLDER] [--out FOLDER] [key=value ...]

INDEX is what `marey index` wrote. Tracks are mined once; the videos are split into two folds, and
three encoders are held against each other on the fold that they have not seen:

- untrained: the weights that both trainings start from;
- random patches: trained with partners exchanged among the tracks of each video, so that a pair is
  two random patches of one video;
- tracks: trained on the same patches, as they were tracked.

Retrieval: the query is the first patch of a track, the gallery the last patches, of all held-out
tracks or of the query's own video only, where the background tells nothing. key=value words change
settings of the training.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from marey.configs.load import override, read_preset, run_config
from marey.configs.mining import mining_settings
from marey.models.encoders.encoder import Encoder
from marey.models.method import methods
from marey.pipeline.data.images import decode_image
from marey.pipeline.data.shards import MANIFEST, Shards, decode_images, finish, write_part
from marey.pipeline.embedding.encoder_files import load_encoder
from marey.pipeline.evaluate.knn import Gallery, knn_accuracy, knn_scores, unit_rows
from marey.pipeline.mining.mine import mine_corpus
from marey.pipeline.runtime.claims import claimed
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.training.launch import prepare, run_training

MINING = ["patch_size=96", "proposals.every_s=0.5", "patches=4", "per_minute=600"]
EVERY_S = 1.0
"""Queries start this far apart: tracks of one thing half a second apart would be told apart."""
MEASURES = ("top1", "mrr", "own_top1", "own_mrr")
ARMS = ("untrained", "random patches", "tracks")


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index", help="index of videos")
    parser.add_argument("--cifar", help="folder with train-10k.parquet and test-2k.parquet")
    parser.add_argument("--out", help="where shards and runs stay (default: a temporary folder)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--together", default="", help="expressions, comma between: videos of one lie in one fold"
    )
    parser.add_argument("settings", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(options.out or scratch)
        mined(options.index, out / "shards")
        together = [word for word in options.together.split(",") if word]
        jobs = [
            (str(out), together, number, seed, options.settings, options.cifar)
            for seed in options.seeds
            for number in (0, 1)
        ]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            report(list(pool.map(one_fold, *zip(*jobs, strict=True))))


def one_fold(
    out: str, together: list[str], number: int, seed: int, words: list[str], cifar: str | None
) -> dict[str, dict[str, float]]:
    """Trains on the other fold and measures on this one, with one core: arm -> figures."""
    torch.set_num_threads(1)
    tracks = Shards(f"{out}/shards").table()
    fold = folds(tracks["video_id"].to_pylist(), together)
    seen, held = tracks.filter(pa.array(fold != number)), held_out(tracks, fold, number)
    print(f"fold {number}: {len(seen)} tracks trained on, {len(held)} queries", flush=True)
    results, run = {}, Path(out)
    for arm in ARMS[1:]:
        run = Path(out, f"{arm.split()[0]}-{number}-{seed}")
        trained(exchanged(seen) if arm == "random patches" else seen, run, seed, words)
        results[arm] = measured(str(run), held, cifar)
    # both start from the same weights
    results["untrained"] = measured(f"{run}/untrained", held, cifar)
    return results


def mined(index: str, folder: Path) -> pa.Table:
    """All tracks of the corpus; mines them unless the folder holds them."""
    if not (folder / MANIFEST).exists():
        mine_corpus(index, str(folder), mining_settings("tracks", MINING), engine="local")
    return Shards(str(folder)).table()


def folds(videos: list[str], together: list[str]) -> np.ndarray:
    """0 or 1 for each row: groups of videos, by falling number of tracks, dealt out 0 1 1 0."""
    groups = [next((w for w in together if re.search(w, v)), v) for v in videos]
    names, counts = np.unique(groups, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    place = {str(names[n]): (0, 1, 1, 0)[turn % 4] for turn, n in enumerate(order)}
    return np.array([place[group] for group in groups])


def held_out(tracks: pa.Table, fold: np.ndarray, number: int) -> pa.Table:
    """The held-out tracks that start in the first key frame of every `EVERY_S`."""
    start = np.array([times[0] for times in tracks["times_s"].to_pylist()])
    return tracks.filter(pa.array((fold == number) & (start % EVERY_S < EVERY_S / 4)))


def exchanged(tracks: pa.Table) -> pa.Table:
    """The same patches, each position's permuted among the tracks of its video."""
    rng = np.random.default_rng(0)
    images = np.array([list(row) for row in tracks["images"].to_pylist()], dtype=object)
    videos = np.array(tracks["video_id"].to_pylist())
    for video in np.unique(videos):
        rows = np.flatnonzero(videos == video)
        for position in range(images.shape[1]):
            images[rows, position] = images[rng.permutation(rows), position]
    column = tracks.schema.get_field_index("images")
    values = pa.array([list(row) for row in images], tracks.schema.field(column).type)
    return tracks.set_column(column, "images", values)


def trained(tracks: pa.Table, run: Path, seed: int, words: list[str]) -> None:
    """Trains the preset on these tracks."""
    shards = Folder(f"{run}-shards")
    key = {"kind": "tracks"}
    with claimed(shards, key, things="shards", finished=MANIFEST):
        write_part(shards, 0, tracks.replace_schema_metadata(None), {})
        finish(shards, key, 1)
    tree = override(read_preset("tracked_patches"), [f"trainer.seed={seed}", *words])
    config = run_config(tree, methods()[tree["name"]].Config)
    run_training(prepare(config, shards.location, str(run)), engine="local")


def measured(run: str, held: pa.Table, cifar: str | None) -> dict[str, float]:
    """Retrieval on held-out tracks, weighed by the number of queries later, and kNN."""
    encoder, _ = load_encoder(run)
    pictures = [decode_images([row[0], row[-1]]) for row in held["images"].to_pylist()]
    features = encode(encoder, np.concatenate(pictures))
    first, last = features[0::2], features[1::2]
    videos = np.array(held["video_id"].to_pylist())
    values = retrieval(first, last, videos)
    if cifar:
        values["knn"] = cifar_knn(encoder, Path(cifar))
    return values


def retrieval(first: np.ndarray, last: np.ndarray, videos: np.ndarray) -> dict[str, float]:
    """Sums over queries, and what guessing would sum to; `own_`: within the query's video."""
    similarity = unit_rows(first) @ unit_rows(last).T
    own = np.diag(similarity)[:, None]
    values: dict[str, float] = {}
    for prefix, gallery in (
        ("", np.ones_like(similarity, dtype=bool)),
        ("own_", videos[:, None] == videos[None, :]),
    ):
        size = gallery.sum(axis=1)
        asked = size > 1
        # ties count half: a collapsed encoder is in the middle, not first
        ahead = (gallery & (similarity > own)).sum(axis=1)
        tied = (gallery & (similarity == own)).sum(axis=1) - 1
        place = 1 + ahead + tied / 2
        harmonic = np.array([sum(1 / np.arange(1, n + 1)) for n in size])
        values |= {
            f"{prefix}top1": float((place[asked] <= 1).sum()),
            f"{prefix}mrr": float((1 / place[asked]).sum()),
            f"{prefix}queries": float(asked.sum()),
            f"{prefix}top1_chance": float((1 / size[asked]).sum()),
            f"{prefix}mrr_chance": float((harmonic / size)[asked].sum()),
        }
    return values


def encode(encoder: Encoder, frames: np.ndarray) -> np.ndarray:
    """Features of uint8 [n, H, W, 3]: float32 [n, D]."""
    with torch.inference_mode():
        parts = [encoder(encoder.preprocess(part)) for part in torch.from_numpy(frames).split(256)]
    return torch.cat(parts).numpy()


def cifar_knn(encoder: Encoder, folder: Path, count: int = 4000) -> float:
    """Accuracy of 20 neighbours among `count` of the training images."""
    sides = []
    for name, rows in (("train-10k", count), ("test-2k", None)):
        table = pq.read_table(folder / f"{name}.parquet", columns=["image", "label"])
        order = np.random.default_rng(0).permutation(len(table))[:rows]
        table = table.take(order)
        pictures = [decode_image(content, (32, 32)) for content in table["image"].to_pylist()]
        sides.append((encode(encoder, np.stack(pictures)), table["label"].to_numpy()))
    (gallery, labels), (queries, truth) = sides
    scores = knn_scores(queries, Gallery(gallery, labels), k=20, tau=0.07, num_classes=10)
    return knn_accuracy(scores, truth, 20)["accuracy"]


def report(results: list[dict[str, dict[str, float]]]) -> None:
    """One line an encoder, over all folds and seeds, and one of chance."""
    print(f"{'encoder':16}" + "".join(f"{name:>10}" for name in (*MEASURES, "knn")))
    for arm in ("chance", *ARMS):
        values = [result["untrained" if arm == "chance" else arm] for result in results]
        suffix = "_chance" if arm == "chance" else ""
        row = [over_queries(values, measure, suffix) for measure in MEASURES]
        knn = 0.1 if suffix else float(np.mean([value.get("knn", np.nan) for value in values]))
        print(f"{arm:16}" + "".join(f"{value:10.3f}" for value in (*row, knn)))


def over_queries(values: list[dict[str, float]], measure: str, suffix: str) -> float:
    """Mean over the queries of all folds and seeds."""
    queries = "own_queries" if measure.startswith("own_") else "queries"
    return sum(v[measure + suffix] for v in values) / sum(v[queries] for v in values)


if __name__ == "__main__":
    main()
