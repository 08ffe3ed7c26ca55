"""Evaluation of what is collapsed, tiny, or does not belong together: true figures or a refusal."""

import json
import math
import unicodedata
from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marey.configs.errors import InputError, MareyError
from marey.pipeline.data.images import class_numbers
from marey.pipeline.embedding.embed import embed
from marey.pipeline.embedding.embeddings import Embeddings, load_embeddings
from marey.pipeline.evaluate.geometry import (
    alarms,
    collapse_signs,
    participation_ratio,
    rankme,
    uniformity,
)
from marey.pipeline.evaluate.labels import Labels, encode_classes, load_labels
from marey.pipeline.evaluate.linear import Standardiser
from marey.pipeline.evaluate.run import evaluate, run_eval


def frames_of(features, events, views=1, labels=None):
    """Embeddings of so many events of so many views, one frame per second."""
    count = len(features)
    place = np.arange(count) * events * views // max(count, 1)
    event = np.array([f"e{n // views}" for n in place], dtype=object)
    view = np.array([str(n % views) for n in place], dtype=object)
    starts = np.searchsorted(place, place)
    frame = np.arange(count) - starts
    return Embeddings(
        video_id=event + "/" + view,
        event=event,
        view=view,
        frame=frame.astype(np.int64),
        time_s=frame + 0.5,
        features=np.asarray(features, np.float32),
        label=None if labels is None else np.array(labels, dtype=object),
    )


RNG = np.random.default_rng(0)
COLLAPSED = {
    "zeros": np.zeros((60, 8)),
    "ones": np.ones((60, 8)),
    "a constant with the rounding of float32": np.full((60, 8), 0.1) * (1 + 1e-8),
    "one direction": np.outer(RNG.uniform(1, 2, 60), RNG.normal(size=8)),
    "two dimensions": RNG.normal(size=(60, 2)),
    "one dimension": RNG.normal(size=(60, 1)),
}
PROTOCOLS = [
    ("knn", {}),
    ("knn", {"shots": 1}),
    ("linear", {"penalties": 2}),
    ("progression", {"penalties": 1, "draws": 1}),
    ("alignment", {}),
    ("retrieval", {"task": "scene", "window_s": 1.0}),
    ("retrieval", {"task": "semantic"}),
    ("retrieval", {"task": "temporal"}),
    ("geometry", {}),
]


def numbers(figures):
    for value in figures.values():
        if isinstance(value, list | tuple):
            yield from (one for one in value if isinstance(one, int | float))
        elif isinstance(value, int | float):
            yield value


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("case", COLLAPSED)
@pytest.mark.parametrize(("protocol", "options"), PROTOCOLS)
def test_collapsed_embeddings_get_figures_that_are_numbers(protocol, options, case):
    features = COLLAPSED[case]
    # ten events of six frames, in three phases of two
    labels = np.arange(60) % 6 // 2
    views = 2 if protocol == "alignment" or options.get("task") == "temporal" else 1
    rows = frames_of(features, 10 // views, views, labels.tolist())
    figures = evaluate(protocol, rows, **options)
    allowed = {"mean_cosine", "spectrum_decay", "kendall_tau_defined"}
    bad = {
        name: value
        for name, value in figures.items()
        if isinstance(value, float) and not math.isfinite(value) and name not in allowed
    }
    assert not bad
    assert list(numbers(figures))


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("count", [1, 2, 3, 12])
@pytest.mark.parametrize("kind", ["one event", "one class", "frames alone"])
@pytest.mark.parametrize(("protocol", "options"), PROTOCOLS)
def test_what_is_too_little_gets_figures_or_a_reason(protocol, options, kind, count):
    features = np.random.default_rng(count).normal(size=(count, 8))
    events = {"one event": 1, "one class": min(3, count), "frames alone": count}[kind]
    labels = np.zeros(count) if kind == "one class" else np.arange(count) % 3
    rows = frames_of(features, events, labels=labels.astype(int).tolist())
    try:
        figures = evaluate(protocol, rows, **options)
    except MareyError:
        return  # a sentence, by the rule of `configs/errors.py`
    assert list(numbers(figures))


@pytest.mark.parametrize("width", [2, 3, 8, 19, 20, 64])
def test_a_collapse_rings_in_any_number_of_dimensions(width):
    rng = np.random.default_rng(width)
    for features in (np.zeros((50, width)), np.full((50, width), 0.3)):
        rung = alarms(collapse_signs(features.astype(np.float32)))
        assert {"collapse", "dimensional_collapse"} <= set(rung)
        assert uniformity(features) == pytest.approx(0, abs=1e-6)
    line = np.outer(rng.normal(size=50), rng.normal(size=width)).astype(np.float32)
    assert "dimensional_collapse" in alarms(collapse_signs(line))
    healthy = rng.normal(size=(200, width)).astype(np.float32)
    assert not alarms(collapse_signs(healthy))
    assert uniformity(healthy) < -1


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_effective_ranks_do_not_depend_on_scale(scale):
    features = np.random.default_rng(0).normal(size=(80, 10)).astype(np.float32)
    scaled = features.astype(np.float64) * scale
    for centred in (False, True):
        assert rankme(scaled, centred=centred) == pytest.approx(rankme(features, centred=centred))
    assert participation_ratio(scaled) == pytest.approx(participation_ratio(features))
    constant = np.full((80, 10), 0.1 * scale)
    assert rankme(constant, centred=True) == 1
    assert participation_ratio(constant) == 0


def test_the_rounding_of_a_constant_is_no_feature():
    rng = np.random.default_rng(0)
    constant = np.float32(1000) * (1 + np.float32(6e-8) * rng.integers(0, 2, (50, 4)))
    varied = constant.copy()
    varied[:, 1] += rng.normal(size=50)
    assert Standardiser(constant)(constant).tolist() == [[0.0]] * 50
    assert Standardiser(varied)(varied).shape == (50, 1)
    assert Standardiser(varied)(varied).std() == pytest.approx(1)


# Gallery and test that do not belong together


def write(folder, features, labels, prefix, **meta):
    folder.mkdir()
    count = len(features)
    columns = {
        "video_id": [f"{prefix}{n // 4}" for n in range(count)],
        "event": [f"{prefix}{n // 4}" for n in range(count)],
        "view": ["0"] * count,
        "frame": [n % 4 for n in range(count)],
        "time_s": [n % 4 + 0.5 for n in range(count)],
        "embedding": [row.tolist() for row in features.astype(np.float32)],
    }
    if labels is not None:
        columns["label"] = labels
    pq.write_table(pa.table(columns), folder / "part.parquet")
    known = {"encoder_sha256": "aa", "preprocessing": {"mean": [0, 0, 0]}, "data": prefix}
    (folder / "meta.json").write_text(json.dumps(known | {"kind": "video"} | meta))
    return str(folder)


CLUSTERS = np.repeat(np.eye(8)[:3], 8, axis=0) + 0.01 * RNG.normal(size=(24, 8))
CLASSES = np.repeat([0, 1, 2], 8)
LABELLED = [
    ("knn", {}), ("linear", {"penalties": 2}), ("progression", {"penalties": 1, "draws": 1}),
    ("retrieval", {"task": "semantic"}),
]  # fmt: skip


@pytest.mark.parametrize(("protocol", "options"), LABELLED)
@pytest.mark.parametrize(
    ("features", "meta", "words"),
    [
        (CLUSTERS[:, :5], {}, "8 and 5 dimensions"),
        (CLUSTERS, {"encoder_sha256": "bb"}, "different encoders"),
        (CLUSTERS, {"preprocessing": {"mean": [0.5] * 3}}, "prepared for the encoder"),
    ],
)
def test_vectors_of_different_encoders_are_not_compared(
    protocol, options, features, meta, words, tmp_path
):
    test = write(tmp_path / "test", CLUSTERS, CLASSES.tolist(), "t")
    gallery = write(tmp_path / "gallery", features, CLASSES.tolist(), "g", **meta)
    with pytest.raises(InputError, match=words):
        run_eval(protocol, test, gallery=gallery, **options)


@pytest.mark.parametrize(("protocol", "options"), LABELLED)
def test_no_class_in_common_is_refused(protocol, options, tmp_path):
    test = write(tmp_path / "test", CLUSTERS, CLASSES.tolist(), "t")
    gallery = write(tmp_path / "gallery", CLUSTERS, (CLASSES + 3).tolist(), "g")
    with pytest.raises(InputError, match=r"no class in common.*'0', '1', '2'.*'3', '4', '5'"):
        run_eval(protocol, test, gallery=gallery, **options)


ACCENTED = ["é", "ü", "ñ"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda n: n, str),
        (lambda n: ACCENTED[n], lambda n: unicodedata.normalize("NFD", ACCENTED[n])),
        (lambda n: n, float),
    ],
)
def test_labels_that_mean_the_same_are_the_same(one, other, tmp_path):
    test = write(tmp_path / "test", CLUSTERS, [one(n) for n in CLASSES.tolist()], "t")
    labels = [other(n) for n in CLASSES.tolist()]
    gallery = write(tmp_path / "gallery", CLUSTERS, labels, "g")
    figures = run_eval("knn", test, gallery=gallery, k=3)["figures"]
    assert (figures["accuracy"], figures["classes"]) == (1, 3)


def test_classes_that_the_gallery_lacks_are_counted(tmp_path):
    test = write(tmp_path / "test", CLUSTERS, CLASSES.tolist(), "t")
    gallery = write(tmp_path / "gallery", CLUSTERS[:16], CLASSES[:16].tolist(), "g")
    figures = run_eval("knn", test, gallery=gallery, k=3)["figures"]
    assert figures["classes_not_in_gallery"] == 1
    assert figures["accuracy"] == pytest.approx(2 / 3)


def test_an_event_is_the_same_in_any_unicode_form(tmp_path):
    test = write(tmp_path / "test", CLUSTERS, CLASSES.tolist(), "é")
    gallery = write(
        tmp_path / "gallery", CLUSTERS, CLASSES.tolist(), unicodedata.normalize("NFD", "é")
    )
    with pytest.raises(InputError, match="share 6 events"):
        run_eval("knn", test, gallery=gallery)


def test_json_labels_of_a_varying_rate_go_by_frame_number(tmp_path):
    """Without fps, entry n is frame n, whenever it is shown; a rate that is none is refused."""
    rows = frames_of(np.zeros((6, 2)), events=1)
    rows = replace(rows, time_s=np.array([0.0, 0.03, 0.06, 7.0, 7.03, 30.0]))
    state = {"frames": [{"phase": n} for n in range(6)]}
    (tmp_path / "e0.json").write_text(json.dumps(state))
    (tmp_path / "._e0.json").write_bytes(b"\0\5\x16\7")
    assert load_labels(tmp_path, rows).values.tolist() == list(range(6))
    for fps in (0, -1, "15", [15]):
        (tmp_path / "e0.json").write_text(json.dumps(state | {"fps": fps}))
        with pytest.raises(InputError, match=r"fps is .* not a rate"):
            load_labels(tmp_path, rows)


def test_label_tables_find_videos_in_any_unicode_form(tmp_path):
    test = write(tmp_path / "test", CLUSTERS, None, "é")
    rows = ["video_id,time_s,label"]
    for n, label in enumerate(CLASSES.tolist()):
        name = unicodedata.normalize("NFD", f"é{n // 4}")
        rows.append(f"{name},{n % 4 + 0.5},{label}")
    (tmp_path / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    figures = run_eval("knn", test, labels=tmp_path / "labels.csv", k=3)["figures"]
    assert (figures["accuracy"], figures["unlabelled"]) == (1, 0)


# Labels of image tables


@pytest.mark.parametrize(
    ("values", "numbers", "classes"),
    [
        ([0, 2, 1, None, -1], [0, 2, 1, -1, -1], [0, 1, 2]),
        ([10**12, 10**12 + 7, None, 10**12], [0, 1, -1, 0], [10**12, 10**12 + 7]),
        ([5, -3, 5], [1, 0, 1], [-3, 5]),
        (["dog", "cat", "", None, "dog"], [1, 0, -1, -1, 1], ["cat", "dog"]),
        ([1.0, 0.0, math.nan], [1, 0, -1], [0, 1]),
    ],
)
def test_labels_of_any_kind_are_numbered_without_room_for_those_that_do_not_occur(
    values, numbers, classes
):
    assert class_numbers(pa.chunked_array([pa.array(values)])) == (numbers, classes)


@pytest.mark.parametrize("values", [[0.5, 1.5], [math.inf, 1.0], [[1], [2]], [b"a", b"b"]])
def test_labels_that_are_no_classes_count_as_none(values):
    assert class_numbers(pa.chunked_array([pa.array(values)])) == (None, [])


def test_numbers_and_their_text_are_one_class_only_where_all_text_is_numbers():
    mixed = np.array([3, "3", "03", 4], dtype=object)
    assert encode_classes(mixed)[0].tolist() == [0, 0, 0, 1]
    named = np.array([3, "3", "three"], dtype=object)
    assert encode_classes(named)[0].tolist() == [0, 1, 2]
    assert Labels(named, "").known.all()


def test_embeddings_of_newer_versions_and_damaged_ones_are_refused_in_a_sentence(tmp_path):
    folder = write(tmp_path / "test", CLUSTERS, CLASSES.tolist(), "t", format=9)
    with pytest.raises(InputError, match=r"format 9.*update marey"):
        run_eval("geometry", folder)
    for content in ("", "{", "[]"):
        (tmp_path / "test" / "meta.json").write_text(content)
        with pytest.raises(InputError, match=r"meta\.json is damaged"):
            run_eval("geometry", folder)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["cat", "dog", "cat"], ["dog", None, "dog"]),  # dog is class 1 here and class 0 there
        ([0.5, 1.5, math.nan], [0.25, 2.5, None]),
        ([10**12, 7, -1], [7, 7, 7]),
    ],
)
def test_labels_travel_with_embeddings_as_their_source_has_them(one, other, tmp_path):
    picture = cv2.imencode(".png", np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3))[1]
    for name, labels in (("one", one), ("other", other)):
        table = pa.table({"image": [picture.tobytes()] * 3, "label": labels})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        table = str(tmp_path / f"{name}.parquet")
        embed("histogram", table, str(tmp_path / name), engine="local")
        wanted = [None if v in (None, -1) or v != v else v for v in labels]
        found = load_embeddings(tmp_path / name).label
        assert found.tolist() == wanted
