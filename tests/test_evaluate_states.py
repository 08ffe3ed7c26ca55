"""Does `marey eval states` find what is in an embedding, and count only what can be told?"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score

from marey.configs.errors import InputError, UsageError
from marey.pipeline.embedding.embeddings import Embeddings
from marey.pipeline.evaluate.run import run_eval
from marey.pipeline.evaluate.state_labels import entropy
from marey.pipeline.evaluate.state_probe import category_means, weighted_f1

VIDEOS, FRAMES = 20, 30
QUICK = {"lr": 0.02, "epochs": 12}


def embedded(features: np.ndarray) -> Embeddings:
    video = np.repeat([f"v{n:02}.mkv" for n in range(VIDEOS)], FRAMES).astype(object)
    frame = np.tile(np.arange(FRAMES), VIDEOS)
    return Embeddings(video, video, np.full(len(video), "0", object), frame, frame / 15,
                      features.astype(np.float32))  # fmt: skip


def table(path: Path, **columns: np.ndarray) -> Path:
    frame = np.tile(np.arange(FRAMES), VIDEOS)
    video = np.repeat([f"v{n:02}.mkv" for n in range(VIDEOS)], FRAMES)
    pq.write_table(pa.table({"video_id": video, "time_s": frame / 15, **columns}), path)
    return path


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    count = VIDEOS * FRAMES
    return {
        "place/ball": rng.integers(0, 6, count),
        "place/paddle": 40 + 3 * rng.integers(0, 4, count),
        "score/points": rng.integers(0, 3, count),
        "score/lives": np.zeros(count, np.int64),
    }


def shown(values: dict[str, np.ndarray], *names: str) -> np.ndarray:
    """One-hot codes of some labels, side by side, and a little noise."""
    rng = np.random.default_rng(1)
    codes = [np.eye(60)[values[name]] for name in names]
    return np.concatenate([*codes, np.zeros((len(codes[0]), 4))], 1) + rng.normal(
        0, 0.05, (len(codes[0]), 60 * len(names) + 4)
    )


def test_what_the_embedding_holds_is_found_and_the_rest_is_at_chance(
    tmp_path: Path, values: dict[str, np.ndarray]
) -> None:
    labels = table(tmp_path / "states.parquet", **values)
    seen = embedded(shown(values, "place/ball", "place/paddle"))
    figures = run_eval("states", seen, labels=labels, **QUICK)["figures"]
    assert figures["f1_place"] > 0.95
    assert figures["f1_score"] < 0.5
    assert figures["f1"] == pytest.approx((figures["f1_place"] + figures["f1_score"]) / 2)
    assert figures["f1_chance"] < 0.35
    # lives never change
    assert (figures["labels"], figures["labels_left_out"]) == (3, 1)
    assert (figures["train_frames"], figures["validation_frames"]) == (14 * FRAMES, 2 * FRAMES)
    assert figures["test_frames"] == 4 * FRAMES


def test_pictures_that_training_has_shown_are_not_asked_again(
    tmp_path: Path, values: dict[str, np.ndarray]
) -> None:
    """The first three frames of every video are one picture; the others differ."""
    frame = np.tile(np.arange(FRAMES), VIDEOS)
    own = np.arange(VIDEOS * FRAMES) + 10
    picture = np.where(frame < 3, frame, own).astype(str)
    labels = table(tmp_path / "states.parquet", picture=picture, **values)
    seen = embedded(shown(values, "place/ball"))
    figures = run_eval("states", seen, labels=labels, **QUICK)["figures"]
    assert figures["duplicates_left_out"] == 4 * 3
    assert figures["test_frames"] == 4 * (FRAMES - 3)


def test_a_gallery_trains_and_all_of_the_test_is_asked(
    tmp_path: Path, values: dict[str, np.ndarray]
) -> None:
    labels = table(tmp_path / "states.parquet", **values)
    whole = embedded(shown(values, "place/ball"))
    test = whole.take(np.arange(len(whole)) < 5 * FRAMES)
    gallery = whole.take(np.arange(len(whole)) >= 5 * FRAMES)
    figures = run_eval("states", test, gallery=gallery, labels=labels, **QUICK)["figures"]
    assert figures["test_frames"] == 5 * FRAMES
    assert figures["f1_of_place/ball"] > 0.95


def test_figures_are_those_of_their_definitions() -> None:
    truth = np.array([[0, 1], [0, 1], [1, 1], [2, 0]])
    answers = np.array([[0, 1], [1, 1], [1, 1], [2, 1]])
    scores = weighted_f1(answers, truth)
    for n in (0, 1):
        expected = f1_score(truth[:, n], answers[:, n], average="weighted", zero_division=0)
        assert scores[n] == pytest.approx(expected)
    means = category_means(np.array([0.2, 0.4, 1.0]), ["a/x", "a/y", "b/z"])
    assert means == pytest.approx({"a": 0.3, "b": 1.0})
    assert entropy(np.array([3, 3, 5, 5])) == pytest.approx(np.log(2))


def test_tables_that_do_not_fit_are_refused(tmp_path: Path, values: dict[str, np.ndarray]) -> None:
    seen = embedded(shown(values, "place/ball"))
    still = table(tmp_path / "still.parquet", lives=values["score/lives"])
    with pytest.raises(InputError, match="no label has an entropy"):
        run_eval("states", seen, labels=still)
    broken = table(tmp_path / "broken.parquet", speed=np.linspace(0, 1, VIDEOS * FRAMES))
    with pytest.raises(InputError, match=r"'speed' holds double.*whole numbers"):
        run_eval("states", seen, labels=broken)
    with pytest.raises(InputError, match="no label; every column"):
        run_eval("states", seen, labels=table(tmp_path / "empty.parquet"))
    with pytest.raises(UsageError, match="--labels"):
        run_eval("states", seen)
