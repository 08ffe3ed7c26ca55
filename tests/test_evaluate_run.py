"""From files to figures: embeddings and labels are read, matched, scored and shown."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from marey.configs.errors import InputError, SettingError
from marey.pipeline.embedding.embeddings import Embeddings, load_embeddings
from marey.pipeline.evaluate.labels import load_labels
from marey.pipeline.evaluate.run import check_disjoint, evaluate, render, run_eval

FPS, LENGTH = 10, 20


def write(folder: Path, events, noise=0.05, seed=0, dim=8, label=-1, files=2):
    """Embeddings in which both views of an event follow one path, as `marey embed` writes them."""
    rng = np.random.default_rng(seed)
    path = np.cumsum(np.random.default_rng(9).normal(size=(LENGTH, dim)), axis=0)
    rows = []
    for event in events:
        for view in "01":
            for n in range(LENGTH):
                vector = path[n] + noise * rng.normal(size=dim)
                rows.append((f"{event}_view{view}.mp4", event, view, n, (n + 0.5) / FPS, vector))
    order = rng.permutation(len(rows))
    (folder / "parts").mkdir(parents=True)
    for number, part in enumerate(np.array_split(order, files)):
        chosen = [rows[i] for i in part]
        vectors = np.concatenate([row[5] for row in chosen]).astype(np.float32)
        table = pa.table(
            {
                "video_id": [row[0] for row in chosen],
                "event": [row[1] for row in chosen],
                "view": [row[2] for row in chosen],
                "frame": [row[3] for row in chosen],
                "time_s": [row[4] for row in chosen],
                "label": pa.array([label] * len(chosen), pa.int64()),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors), dim),
            }
        )
        pq.write_table(table, folder / "parts" / f"part-{number:06d}.parquet")
    (folder / "meta.json").write_text(json.dumps({"encoder_sha256": "ab" * 32, "data": "x"}))
    return folder


def write_labels(folder: Path, events):
    folder.mkdir()
    for event in events:
        frames = [
            {"phase": 4 * n // LENGTH, "joints": [n / LENGTH, 1 - n / LENGTH], "tilt": n / 7}
            for n in range(LENGTH)
        ]
        state = {"fps": FPS, "phases": list("abcd"), "frames": frames}
        (folder / f"{event.rsplit('/')[-1]}.json").write_text(json.dumps(state))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    write(folder / "test", [f"test/e{i}" for i in range(4)])
    write(folder / "train", [f"train/e{i}" for i in range(10, 16)], seed=1)
    write(folder / "untrained", [f"test/e{i}" for i in range(4)], noise=50.0)
    names = [f"e{i}" for i in (0, 1, 2, 3, 10, 11, 12, 13, 14, 15)]
    write_labels(folder / "labels", names)
    return folder


def test_embeddings_come_back_sorted_whole_and_once(place, tmp_path):
    rows = load_embeddings(place / "test")
    assert len(rows) == 4 * 2 * LENGTH
    assert rows.label is None
    assert rows.features.dtype == np.float32
    assert rows.meta["encoder_sha256"] == "ab" * 32
    one = rows.take(rows.video_id == "test/e2_view1.mp4")
    assert one.frame.tolist() == list(range(LENGTH))
    assert np.all(one.event == "test/e2")
    twice = tmp_path / "twice"
    (twice / "parts").mkdir(parents=True)
    for source in (place / "test" / "parts").iterdir():
        for copy in "ab":
            (twice / "parts" / f"{copy}{source.name}").write_bytes(source.read_bytes())
    again = load_embeddings(twice)
    assert np.array_equal(again.features, rows.features)


def test_what_is_no_embeddings_folder_is_refused_with_the_reason(place, tmp_path):
    with pytest.raises(InputError, match="no such"):
        load_embeddings(tmp_path / "absent")
    with pytest.raises(InputError, match="no Parquet"):
        load_embeddings(tmp_path)
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(InputError, match="Parquet"):
        load_embeddings(tmp_path / "text.parquet")
    pq.write_table(pa.table({"video_id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="embedding"):
        load_embeddings(tmp_path / "other.parquet")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "unfinished.json").write_text("{}")
    with pytest.raises(InputError, match="unfinished"):
        load_embeddings(tmp_path / "cut")
    broken = write(tmp_path / "nan", ["a"], noise=np.nan)
    with pytest.raises(InputError, match="40 of 40"):
        load_embeddings(broken)


def test_json_labels_meet_their_frames_by_time(place):
    rows = load_embeddings(place / "test")
    labels = load_labels(place / "labels", rows)
    assert labels.known.all()
    assert labels.values.tolist() == (4 * rows.frame // LENGTH).tolist()
    joints = load_labels(place / "labels", rows, attribute="joints").numeric()
    assert joints is not None
    assert np.allclose(joints[:, 0], rows.frame / LENGTH)
    with pytest.raises(SettingError, match="joints"):
        load_labels(place / "labels", rows, attribute="jonts")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table_labels_hold_for_the_nearest_row_within_tolerance(place, tmp_path, suffix):
    rows = load_embeddings(place / "test")
    table = pa.table(
        {
            "video_id": ["test/e0_view0.mp4"] * 2,
            "time_s": [0.35, 1.25],
            "label": ["early", "late"],
        }
    )
    path = tmp_path / f"labels{suffix}"
    if suffix == ".csv":
        pa.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    labels = load_labels(path, rows, tolerance_s=0.5)
    own = labels.values[rows.video_id == "test/e0_view0.mp4"].tolist()
    assert own == ["early"] * 8 + ["late"] * 10 + [None] * 2
    assert labels.known.sum() == 18


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_empty_cell_and_nan_are_no_label(place, tmp_path, suffix):
    rows = load_embeddings(place / "test")
    video, times = ["test/e0_view0.mp4"] * 3, [0.3, 0.9, 1.5]
    for name, label in (("text", ["a", "", "b"]), ("numbers", [0.0, float("nan"), 1.0])):
        table = pa.table({"video_id": video, "time_s": times, "label": label})
        path = tmp_path / f"{name}{suffix}"
        if suffix == ".csv":
            pa.csv.write_csv(table, path)
        else:
            pq.write_table(table, path)
        labels = load_labels(path, rows)
        assert set(labels.values[labels.known].tolist()) == {label[0], label[2]}
        assert labels.numeric() is None
    joints = [[0.1, 0.2], [0.1, float("nan")], [0.3, 0.4]]
    path = tmp_path / "joints.parquet"
    pq.write_table(pa.table({"video_id": video, "time_s": times, "label": joints}), path)
    targets = load_labels(path, rows).numeric()
    assert targets is not None
    assert np.isfinite(targets).all()


@pytest.mark.parametrize("attribute", ["joints", "tilt"])
def test_regression_targets_are_no_classes(place, attribute):
    options = {"labels": place / "labels", "attribute": attribute}
    for protocol in ("knn", "progression", "alignment"):
        with pytest.raises(InputError, match="eval linear"):
            run_eval(protocol, place / "test", **options)
    assert "r2" in run_eval("linear", place / "test", penalties=3, **options)["figures"]


def test_labels_of_other_videos_are_refused(place, tmp_path):
    other = write_labels(tmp_path / "other", ["z"])
    with pytest.raises(InputError, match="no label matches"):
        load_labels(other, load_embeddings(place / "test"))
    with pytest.raises(InputError, match="--labels"):
        load_labels(None, load_embeddings(place / "test"))


@pytest.mark.parametrize(
    ("protocol", "options", "figure", "at_least"),
    [
        ("knn", {}, "accuracy", 0.3),
        ("linear", {"penalties": 5}, "accuracy", 0.3),
        ("alignment", {}, "alignment_error_symmetric", -0.25),
        ("alignment", {}, "phase_error", -0.3),
        ("alignment", {"stride": 1}, "kendall_tau", 0.6),
        ("retrieval", {"task": "temporal"}, "hit@1", 0.3),
        ("retrieval", {"task": "semantic"}, "mean_average_precision", 0.3),
        ("geometry", {}, "align_time", -0.1),
    ],
)
def test_every_protocol_prefers_embeddings_that_follow_the_state(
    place, protocol, options, figure, at_least
):
    result = run_eval(
        protocol,
        str(place / "test"),
        labels=str(place / "labels"),
        baseline=place / "untrained",
        **options,
    )
    gain = result["figures"][figure] - result["baseline"][figure]
    assert gain * np.sign(at_least) > abs(at_least)
    assert json.loads(json.dumps(result)) == result, "not plain numbers"
    text = render(result)
    assert all(name in text for name in result["figures"])
    assert "baseline" in text


def test_a_gallery_of_other_videos_is_used_and_one_of_the_same_is_refused(place):
    result = run_eval("knn", place / "test", labels=place / "labels", gallery=place / "train", k=5)
    assert result["figures"]["accuracy"] > 0.9
    assert result["figures"]["gallery"] == 6 * 2 * LENGTH
    with pytest.raises(InputError, match="share 4 events"):
        run_eval("knn", place / "test", labels=place / "labels", gallery=place / "test")
    linear = run_eval(
        "linear",
        place / "test",
        labels=place / "labels",
        gallery=place / "train",
        attribute="joints",
        penalties=5,
    )
    assert linear["figures"]["r2"] > 0.8


def test_videos_of_one_frame_are_not_taken_for_images():
    """Images of two tables may share names, which are row numbers; videos may not."""
    names = np.array(["a", "b", "c"], dtype=object)

    def part(data, kind):
        return Embeddings(
            video_id=names, event=names, view=names, frame=np.zeros(3, np.int64),
            time_s=np.zeros(3), features=np.eye(3, dtype=np.float32),
            meta={"data": data, "kind": kind},
        )  # fmt: skip

    check_disjoint(part("test", "image"), part("train", "image"))
    with pytest.raises(InputError, match="share 3 events"):
        check_disjoint(part("test", "video"), part("train", "video"))


def test_one_event_gives_a_figure_but_no_interval(tmp_path):
    one = write(tmp_path / "one", ["a"])
    several = write(tmp_path / "several", ["a", "b"])
    assert "alignment_error_symmetric_interval" not in run_eval("alignment", one)["figures"]
    low, high = run_eval("alignment", several)["figures"]["alignment_error_symmetric_interval"]
    assert low <= high


def test_videos_of_one_camera_have_all_figures_but_that_of_two_views(place):
    rows = load_embeddings(place / "test")
    labels = load_labels(place / "labels", rows)
    both = evaluate("alignment", rows, labels)
    one = rows.view == "0"
    alone = evaluate("alignment", rows.take(one), replace(labels, values=labels.values[one]))
    assert alone.keys() == {k for k in both if "align" not in k and "view" not in k} - {"events"}
    assert alone["kendall_tau"] > 0.8
    assert alone["phase_error"] < 0.1
    video = rows.take(rows.video_id == rows.video_id[0])
    with pytest.raises(InputError, match="two views of an event"):
        evaluate("alignment", video)


@pytest.mark.data
def test_raw_pixels_of_real_views_align_no_better_than_published_baselines(shared_data):
    """Untrained features err by about 0.3 (alignment) and 0.8 (phase) on two-view pouring."""
    import av
    import cv2

    rows = []
    for path in sorted((shared_data / "armpour" / "test").glob("seq100*_view*.mp4")):
        event, view = path.stem.split("_view")
        with av.open(path) as container:
            for n, frame in enumerate(container.decode(video=0)):
                small = cv2.resize(frame.to_ndarray(format="gray"), (16, 16))
                rows.append((path.name, event, view, n, (n + 0.5) / 15, small.ravel() / 255.0))
    columns = list(zip(*rows, strict=True))
    embeddings = Embeddings(
        *(np.array(column, dtype=object) for column in columns[:3]),
        frame=np.array(columns[3]),
        time_s=np.array(columns[4]),
        features=np.array(columns[5], dtype=np.float32),
    )
    labels = load_labels(shared_data / "armpour" / "test", embeddings)
    figures = evaluate("alignment", embeddings, labels)
    assert figures["events"] == 10
    assert figures["unlabelled"] == 0
    assert 0.2 < figures["alignment_error_symmetric"] < 0.4
    assert 0.6 < figures["phase_error"] < 0.9


def test_wrong_protocols_and_settings_are_refused(place):
    with pytest.raises(SettingError, match="did you mean knn"):
        run_eval("knnn", place / "test")
    with pytest.raises(SettingError, match="knn, linear"):
        run_eval("zzz", place / "test")
    with pytest.raises(SettingError, match="no setting 'kk'"):
        run_eval("knn", place / "test", kk=3)
    with pytest.raises(SettingError, match="k: must be a valid integer"):
        run_eval("knn", place / "test", k="three")
    with pytest.raises(SettingError, match="--baseline-gallery"):
        run_eval("knn", place / "test", gallery=place / "train", baseline=place / "untrained")


def test_class_numbers_in_the_embeddings_serve_without_a_label_file(tmp_path):
    folder = write(tmp_path / "labelled", ["a", "b"], label=3)
    rows = load_embeddings(folder)
    assert rows.label is not None
    assert set(rows.label) == {3}
    assert evaluate("knn", rows, k=3)["accuracy"] == 1


def test_a_result_names_all_that_it_rests_on(place):
    test, gallery = str(place / "test"), str(place / "train")
    result = run_eval("knn", test, gallery=gallery, labels=str(place / "labels"), k=5)
    assert result["settings"]["k"] == 5
    assert result["settings"]["attribute"] == "phase"
    for side in ("embeddings", "gallery"):
        assert result[side]["encoder_sha256"] == "ab" * 32
        assert {"data", "data_digest", "preprocessing", "frames", "videos"} <= result[side].keys()
    assert "seed" in run_eval("alignment", test)["settings"]
