"""Is the page whole, honest and self-contained? Charts, strips, tables, pictures, refusals."""

import base64
import json
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marey.configs.errors import InputError
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.embedding.embeddings import load_embeddings
from marey.pipeline.report import charts, task_section, write_report
from marey.pipeline.report.charts import Curve, line_chart, thinned, ticks
from marey.pipeline.report.of_embeddings import matched
from marey.pipeline.report.page import Section, number, render_page
from marey.pipeline.report.plate import plate
from marey.pipeline.report.projection import project
from marey.pipeline.synthetic.arm_corpus import make_corpus

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Checks nesting and keeps what tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.text = text
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert tag not in ("link", "iframe", "object"), f"{tag} in a self-contained page"
        assert tag != "script" or not attributes, "a script that is not in the file"
        for name in ("src", "href"):
            value = attributes.get(name, "#") or "#"
            assert value.startswith(("#", "data:")), f"external resource {value[:60]}"
        if tag == "img":
            assert attributes["alt"], "a picture without description"
            self.images.append(attributes["src"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"


def decoded(source: str) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(source.split(",", 1)[1]), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def report(target, tmp_path, **options) -> Page:
    write_report(str(target), str(tmp_path / "page.html"), **options)
    return Page((tmp_path / "page.html").read_text())


def line_of(svg: str):
    """Vertical positions of the curve's points, and of the chance line."""
    tree = ET.fromstring(svg)
    curve = [float(p.split(",")[1]) for p in tree.find("polyline").get("points").split()]
    dashed = [float(e.get("y1")) for e in tree.findall("line") if e.get("stroke-dasharray")]
    return np.array(curve), dashed


def test_a_curve_at_chance_lies_on_the_chance_line_and_a_better_one_above():
    steps = np.arange(10.0)
    flat, (chance,) = line_of(line_chart("a", [Curve("a", steps, steps * 0 + 0.25)], chance=0.25))
    assert np.allclose(flat, chance)
    rising, (chance,) = line_of(line_chart("a", [Curve("a", steps, 0.25 + steps)], chance=0.25))
    assert rising[0] == pytest.approx(chance, abs=0.1)
    assert np.all(np.diff(rising) < 0)
    assert not line_of(line_chart("a", [Curve("a", steps, steps)]))[1]


def test_several_curves_are_told_apart_by_labels_that_do_not_cover_each_other():
    steps = np.arange(5.0)
    ends = (("up", 1.0), ("by", 1.01), ("low", 0.0))
    curves = [Curve(name, steps, steps * 0 + value) for name, value in ends]
    tree = ET.fromstring(line_chart("both", curves, chance=1.005))
    ends = {e.text: float(e.get("y")) for e in tree.iter("text") if e.get("class") == "end"}
    assert {text.split()[0] for text in ends} == {"up", "by", "low", "chance"}
    assert np.diff(sorted(ends.values())).min() >= 12.9


def test_long_curves_are_thinned_by_averaging_and_holes_are_left_out():
    x, y = np.arange(1000.0), np.arange(1000.0) * 2
    y[3] = np.nan
    few_x, few_y = thinned(x, y)
    assert len(few_x) == 240
    assert np.allclose(few_y, 2 * few_x)
    assert np.isfinite(few_y).all()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.0213, 0.0219), (-3, 1e6), (5, 5)])
def test_ticks_are_few_round_and_inside(low, high):
    found = ticks(low, high)
    assert 1 <= len(found) <= 8
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.123"), (1234567.0, "1,234,567"), (0.00002, "2e-05"), (float("nan"), "–")],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_names_cannot_break_the_page():
    page = Page(render_page("<b>&", "a < b", [Section("<i>", "<p>fine</p>", "x & y")]))
    assert "&lt;b&gt;&amp;" in page.text


def test_a_plate_holds_the_object_in_all_its_places_and_refuses_a_moving_camera():
    rng = np.random.default_rng(0)
    ground = cv2.GaussianBlur(rng.integers(0, 120, (60, 90, 3)).astype(np.uint8), (0, 0), 2)
    frames = np.stack([ground] * 6)
    frames[5] += 30  # the exposure adapts
    for n in range(6):
        frames[n, 20:32, 12 * n + 4 : 12 * n + 14] = (250, 240, 230)
    whole = plate(frames)
    assert whole is not None
    for n in range(6):
        assert whole[26, 12 * n + 9].min() > 150, f"position {n} is missing"
    assert np.abs(whole[45:].astype(int) - ground[45:]).max() <= 1
    panned = np.stack([np.roll(ground, 9 * n, axis=1) for n in range(6)])
    assert plate(panned) is None
    assert plate(np.stack([ground] * 6)) is None
    dim = np.stack([np.roll(ground // 4, 9 * n, axis=1) for n in range(6)])
    dim[3, 20:32, 20:60] = 250
    assert plate(dim) is None, "something moves, but so does the camera"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny corpus with its index, and embeddings of it that follow time, and that do not."""
    folder = tmp_path_factory.mktemp("report")
    make_corpus(folder / "corpus", events=3, views=2, seconds=2, fps=10, size=48)
    (folder / "corpus" / "train" / "broken & bad.mp4").write_bytes(b"no video" * 50)
    table = make_index(
        [str(folder / "corpus")],
        views=r"(?P<event>.+)_view(?P<view>\d)",
        motion="packets",
        workers=1,
    )
    write_index(table, str(folder / "index.parquet"))
    rows = [row for row in table.to_pylist() if row["status"] == "ok"]
    line = np.cumsum(np.random.default_rng(0).normal(size=(20, 6)), axis=0)
    for name, noise in (("trained", 0.05), ("untrained", 30.0)):
        rng = np.random.default_rng(1)
        write_embeddings(
            folder / name, rows, lambda n, k=noise, r=rng: line[n] + k * r.normal(size=6)
        )
    return folder


def write_embeddings(folder, rows, vector):
    (folder / "parts").mkdir(parents=True)
    frames = [(row, n) for row in rows for n in range(20)]
    vectors = np.concatenate([vector(n) for _, n in frames]).astype(np.float32)
    columns = {
        "video_id": [row["video_id"] for row, _ in frames],
        "event": [row["event"] for row, _ in frames],
        "view": [row["view"] for row, _ in frames],
        "frame": [n for _, n in frames],
        "time_s": [(n + 0.5) / 10 for _, n in frames],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors), 6),
    }
    pq.write_table(pa.table(columns), folder / "parts" / "part-000000.parquet")
    meta = {
        "encoder": "run",
        "encoder_sha256": "c0ffee" * 10,
        "data": str(folder.parent / "index.parquet"),
    }
    (folder / "meta.json").write_text(json.dumps(meta))


def test_the_index_page_lists_every_file_and_every_refusal_with_its_reason(place, tmp_path):
    page = report(place / "index.parquet", tmp_path)
    for row in pq.read_table(place / "index.parquet").to_pylist():
        assert row["video_id"].replace("&", "&amp;") in page.text
        if row["status"] != "ok":
            assert row["error"][:30].replace("'", "&#x27;").replace("&", "&amp;")[:10] in page.text
    assert "unreadable" in page.text
    assert len(page.images) >= 6 * 8, "frames of every video"
    assert decoded(page.images[-1]).std() > 10


def test_the_index_page_stands_where_the_videos_are_gone(place, tmp_path):
    shutil.copytree(place / "corpus", tmp_path / "corpus")
    table = make_index([str(tmp_path / "corpus")], views=None, motion="none", workers=1)
    write_index(table, str(tmp_path / "index.parquet"))
    shutil.rmtree(tmp_path / "corpus")
    page = report(tmp_path / "index.parquet", tmp_path)
    assert not page.images
    assert "fetch002_view1.mp4" in page.text


def test_the_embeddings_page_shows_what_each_side_finds(place, tmp_path):
    page = report(
        place / "trained",
        tmp_path,
        baseline=str(place / "untrained"),
        labels=str(place / "corpus" / "labels"),
    )
    cells = dict(re.findall(r"<tr><td>([^<]+)</td><td><b>([^<]+)</b></td>", page.text))
    assert float(cells["alignment error"]) < 0.02
    assert "phase error" in cells
    (answer,) = re.findall(r'<p class="answer">([^<]*)</p>', page.text)
    assert answer.startswith(f"Alignment error {cells['alignment error']} against ")
    assert answer.endswith("better than both.")
    found = re.findall(r'class="(good|bad)">([+-][\d.]+) s<', page.text)
    assert len(found) == 16, "eight rows, two sides"
    assert all(kind == "good" for kind, _ in found[::2])
    assert sum(kind == "bad" for kind, _ in found[1::2]) >= 4
    assert page.text.count('class="map"') == 4


def test_an_encoder_that_is_no_better_than_its_baseline_is_not_praised(place, tmp_path):
    page = report(place / "untrained", tmp_path, baseline=str(place / "trained"))
    (answer,) = re.findall(r'<p class="answer">([^<]*)</p>', page.text)
    assert "not better: train longer" in answer


def test_the_pictures_are_those_of_the_frames_named(place, tmp_path):
    def fetch(video_id: str, time_s: float) -> np.ndarray:
        shade = round(time_s * 100)
        return np.full((40, 40, 3), (shade, 255 * ("view1" in video_id), 0), np.uint8)

    page = report(place / "trained", tmp_path, fetch=fetch)
    start = page.text.index("The same moment from the other view</h2>")
    rows = re.findall(r"<tr><td>[^<]*fetch.*?</tr>", page.text[start:])[:8]
    assert len(rows) == 8
    for row in rows:
        query, true, found = (decoded(s)[0, 0] for s in re.findall(r'src="([^"]+)"', row)[:3])
        time_s = float(re.search(r">([\d.]+) s<", row).group(1))
        assert tuple(query) == (round(time_s * 100), 0, 0)
        assert tuple(true) == (round(time_s * 100), 255, 0)
        off = float(re.search(r">([+-][\d.]+) s<", row).group(1))
        assert tuple(found) == (round((time_s + off) * 100), 255, 0)


def test_a_baseline_of_other_frames_is_refused(place, tmp_path):
    part = place / "untrained" / "parts" / "part-000000.parquet"
    (tmp_path / "less" / "parts").mkdir(parents=True)
    pq.write_table(pq.read_table(part).slice(5), tmp_path / "less" / "parts" / part.name)
    with pytest.raises(InputError, match="lacks 5 of 120"):
        report(place / "trained", tmp_path, baseline=str(tmp_path / "less"))
    assert not (tmp_path / "page.html").exists()
    trained = load_embeddings(place / "trained")
    fewer = trained.take(np.arange(7, 90))
    assert np.array_equal(matched(trained, fewer).features, fewer.features)


def write_run(folder, kind="view_pairs", frames=6):
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = [{"step": 0, "total": 40, "time_s": 0.5, "probe": {"alignment_error": 0.31}}]
    for step in range(10, 41, 10):
        lines.append(
            {
                "step": step, "total": 40, "time_s": step / 4, "epoch": 0, "lr": step / 1e4,
                "loss": 3 - step / 20, "retrieval_top1": step / 50, "samples_per_s": 8.0 + step,
                "data_wait": 0.5 if step == 10 else 0.02, "refused": 0.0,
            }
        )  # fmt: skip
    lines.append({"step": 40, "total": 40, "time_s": 10.0, "probe": {"alignment_error": 0.12}})
    lines.append({"step": 40, "total": 40, "time_s": 10.0, "warning": "all rows are <one>"})
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "metrics.jsonl").write_text(text + '\n{"step": 50, "lo')
    (folder / "chance.json").write_text('{"retrieval_top1": 0.0625, "alignment_error": 0.3333}')
    (folder / "config.yaml").write_text(
        f"config:\n  name: tcn\n  method: {{sampling: {{kind: {kind}}}}}\nprovenance: {{data: x}}\n"
    )
    images = rng.integers(0, 255, (3, frames, 24, 24, 3)).astype(np.uint8)
    half = np.array([[0.9, 0.1, 0.5]] * 3)
    time_s = np.tile(half, 2) if kind == "view_pairs" else np.array([[0.4, 1.2, 0.8]] * 3)
    view = np.array([[0] * (frames // 2) + [1] * (frames - frames // 2)] * 3)
    extra = {} if kind == "view_pairs" else {"label": np.array([0, 1, 0])}
    np.savez(folder / "samples.npz", frames=images, time_s=time_s, view=view, **extra)
    return images


def test_the_run_page_has_every_curve_with_chance_and_the_final_numbers(tmp_path):
    images = write_run(tmp_path / "run")
    page = report(tmp_path / "run", tmp_path)
    titles = re.findall(r'class="title"[^>]*>([^<]+)<', page.text)
    assert titles[:2] == ["alignment error", "retrieval top1"]
    assert {"loss", "lr", "samples per second"} <= set(titles)
    assert "refused" not in titles, "a curve that never moves"
    assert "step 40: all rows are &lt;one&gt;" in page.text
    assert page.text.count("stroke-dasharray") == 2
    for shown in ("<b>1</b><span>loss", "<b>0.12</b><span>probe alignment error", "<b>2.0 %</b>"):
        assert shown in page.text
    assert len(page.images) == 3 * 6
    order = [1, 2, 0]
    for place_, source in enumerate(page.images[:6]):
        row, column = divmod(place_, 3)
        assert np.array_equal(decoded(source), images[0, 3 * row + order[column]])


def test_the_run_page_names_what_was_refused(tmp_path):
    write_run(tmp_path / "run")
    write_report(str(tmp_path / "run"), str(tmp_path / "page.html"))
    assert "What gave no sample" not in (tmp_path / "page.html").read_text()
    samples = {f"video{n:03d}.mp4: damaged": n for n in range(1, 61)}
    summary = {"step": 40, "samples": 80, "refused": samples, "time_s": 10.0}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "run" / "not_sampled.json").write_text(json.dumps({"<b>.mp4: too_short": 1}))
    write_report(str(tmp_path / "run"), str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;.mp4: too_short" in page
    assert "video049.mp4: damaged" in page
    assert "video050.mp4" not in page
    assert "and 11 more, in not_sampled.json and summary.json" in page


def test_tuples_keep_the_order_that_is_to_be_judged(tmp_path):
    images = write_run(tmp_path / "run", kind="tuples", frames=3)
    page = report(tmp_path / "run", tmp_path)
    assert re.findall(r"Sample \d: ([a-z ]+)", page.text) == [
        "out of order",
        "in order",
        "out of order",
    ]
    assert np.array_equal(decoded(page.images[1]), images[0, 1])


def test_what_is_none_of_these_is_refused_and_nothing_is_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.jsonl").write_text("")
    for target, reason in (("absent", "no such"), ("folder", "neither"), ("empty", "not logged")):
        with pytest.raises(InputError, match=reason):
            report(tmp_path / target, tmp_path)
    assert not (tmp_path / "page.html").exists()


def test_few_frames_are_projected_by_pca_and_many_by_tsne():
    rng = np.random.default_rng(0)
    points, method = project(rng.normal(size=(20, 5)))
    assert (points.shape, method) == ((20, 2), "PCA")
    clusters = np.repeat(np.eye(3) * 10, 40, axis=0) + 0.1 * rng.normal(size=(120, 3))
    points, method = project(clusters)
    assert method.startswith("t-SNE")
    centre = points.reshape(3, 40, 2).mean(axis=1)
    inner = np.linalg.norm(points.reshape(3, 40, 2) - centre[:, None], axis=2).mean()
    assert np.linalg.norm(centre[0] - centre[1]) > 3 * inner


def test_a_task_is_shown_beside_its_start_and_chance_and_says_whose_videos_they_are():
    figures = {"loss": 1.5, "accuracy": 0.75}
    start = {"loss": 2.5, "accuracy": 0.5}
    section = task_section(figures, start, {"accuracy": 0.25}, held_out=True)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", section.body)
    assert cells == ["accuracy", "0.75", "0.5", "0.25", "loss", "1.5", "2.5", ""]
    assert "not trained on" in section.intro
    (first,) = re.findall(r'<p class="answer">([^<]*)</p>', section.body)
    assert first == "Accuracy 0.75 against 0.5 untrained and 0.25 by chance: better than both."
    lost = task_section(start, figures, {"accuracy": 0.25}, held_out=True)
    assert "not better: train longer" in lost.body
    known = task_section(figures, start, {}, held_out=False)
    assert "not trained on" not in known.intro
    assert "held out" not in known.title


def _contrast(one: str, other: str) -> float:
    """Contrast of two colours (WCAG 2.2, 1.4.3)."""

    def luminance(colour: str) -> float:
        digits = colour * 2 if len(colour) == 3 else colour
        parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("ground", [0, 1], ids=["light", "dark"])
def test_small_coloured_text_can_be_read(ground):
    style = (Path(charts.__file__).parent / "chart.css").read_text().split("@media")[ground]
    colours = dict(re.findall(r"--([a-z0-9]+):#([0-9a-f]{3,6})[;}]", style))
    for name in ("ink", "soft", "c0", "c1", "c2", "c3", "chance"):
        for paper in ("paper", "card"):
            assert _contrast(colours[name], colours[paper]) >= 4.5, (name, paper)


def test_the_similarity_of_two_views_has_seconds_on_its_axes_and_one_scale(place, tmp_path):
    page = report(place / "trained", tmp_path, baseline=str(place / "untrained"))
    found = re.findall(
        r'<svg[^>]*data-hover="heat" data-values=\'([^\']*)\'>(.*?)</svg>', page.text
    )
    assert len(found) == 6, "three events, two sides"
    scales = {tuple(re.findall(r"<text[^>]*>([^<]*)</text>", svg)[-2:]) for _, svg in found}
    assert len(scales) == 1
    trained = load_embeddings(place / "trained")
    times = json.loads(found[0][0].replace("&quot;", '"'))["down"]
    assert max(times) == pytest.approx(trained.time_s.max(), abs=0.01)


def test_pointing_at_a_map_has_a_text_and_a_picture_for_each_point(place, tmp_path):
    page = report(place / "trained", tmp_path)
    texts = re.search(r"data-texts='([^']*)'", page.text).group(1).replace("&quot;", '"')
    points = re.search(r"data-hover=\"map\" data-values='([^']*)'", page.text).group(1)
    assert len(json.loads(texts)) == len(json.loads(points)) == 120
    trained = load_embeddings(place / "trained")
    assert json.loads(texts)[0].startswith(trained.video_id[0])
    sheet = decoded(re.search(r"data-texts='[^']*'><img src=\"([^\"]+)\"", page.text).group(1))
    across = int(re.search(r'data-across="(\d+)"', page.text).group(1))
    assert sheet.shape == (64 * across, 64 * across, 3)
    assert sheet[:64, :64].std() > 1
