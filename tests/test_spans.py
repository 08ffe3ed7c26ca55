"""A span of a file is a video of its own: no frame outside it is ever shown, and neighbours of a
file are decoded together, each group of pictures once."""

import json
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from marey.configs.errors import InputError
from marey.configs.mining import ImageConfig, TracksMining
from marey.configs.sampling import (
    ClipsSampling,
    FramesSampling,
    SpreadSampling,
    TimePairsSampling,
    TuplesSampling,
    ViewPairsSampling,
)
from marey.configs.schema import DataConfig
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.data.index import Index
from marey.pipeline.data.list_files import ListOptions
from marey.pipeline.embedding.frame_parts import FrameParts
from marey.pipeline.embedding.read_part import ReadPart
from marey.pipeline.mining.sample_part import SamplePart, SampleWork
from marey.pipeline.mining.tracks import TrackMiner, TrackUnits
from marey.pipeline.report.pictures import frame_of
from marey.pipeline.stream.decode import settings_of
from marey.pipeline.stream.plan import UNIT_FRAMES, Position, make_plan
from marey.pipeline.video import (
    FrameRequest,
    Span,
    frames,
    probe,
    pyav_backend,
    read,
    read_plan,
    read_range,
)
from marey.pipeline.video.backends import open_decoder
from marey.pipeline.video.energy import motion_energy
from marey.pipeline.video.probe import probe_spans
from marey.pipeline.video.span import FrameSpan
from marey.pipeline.video.stats import DecodeStats
from tests.corpora import decoder
from tests.videos import encode_video, frame_number

FPS, FRAMES = 25, 400
SHAPE = (48, 64)
SAMPLERS = [
    FramesSampling(per_video=3),
    TimePairsSampling(pairs=4, window_s=2),
    TuplesSampling(max_span_s=0.6, min_gap_s=0.2, motion_weighted=False),
    ClipsSampling(num_frames=4, spacing_s=0.08, per_video=3),
    ClipsSampling(num_frames=2, clips=2, spacing_s=0.04),
    SpreadSampling(num_frames=5, positive_s=0.2),
    ViewPairsSampling(pairs=4),
]


def listed(folder, lines, name="list.csv", columns="path,start,end,event,view", **settings):
    """The index of a list of spans."""
    path = folder / name
    path.write_text("\n".join([columns, *lines]) + "\n")
    table = make_index([str(path)], **settings)
    write_index(table, str(folder / "index.parquet"))
    return Index.load(str(folder / "index.parquet"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two long numbered videos, one of them of open groups in Matroska."""
    folder = tmp_path_factory.mktemp("spans")
    encode_video(folder / "a.mp4", FRAMES, fps=FPS)
    encode_video(folder / "b.mkv", FRAMES, fps=FPS, gop=24, options={"x264-params": "open-gop=1"})
    return folder


def random_spans(seed, count=12):
    """Frame ranges of a file: random ones, which overlap, touching ones, and single frames."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, FRAMES - 2, count)
    sizes = rng.integers(2, 90, count)
    spans = [(int(s), int(min(FRAMES, s + n))) for s, n in zip(starts, sizes, strict=True)]
    edges = np.unique(rng.integers(0, FRAMES, 6))
    spans += list(pairwise(edges.tolist()))
    return [*spans, (0, 1), (int(starts[0]), int(starts[0]) + 1), (FRAMES - 1, FRAMES)]


def corpus(folder, seed):
    """Events of two cameras whose spans begin at different frames of two files; their bounds."""
    lines, bounds = [], {}
    shift = np.random.default_rng(seed + 100)
    for n, (start, stop) in enumerate(random_spans(seed)):
        other = int(shift.integers(0, FRAMES - (stop - start) + 1))
        for view, (name, first) in enumerate((("a.mp4", start), ("b.mkv", other))):
            last = first + stop - start
            # bounds a little off the frames, as timestamps in lists are
            lines.append(f"{name},{first / FPS - 0.004:.3f},{last / FPS - 0.004:.3f},e{n},{view}")
            bounds[f"e{n}", view] = first, last
    lines = [line.replace(",-0.004", ",0") for line in lines]
    return listed(folder, lines), bounds


@pytest.mark.parametrize("sampling", SAMPLERS, ids=lambda s: f"{s.kind}")
@pytest.mark.parametrize("seed", [0, 1])
def test_no_sampler_shows_a_frame_outside_a_span(folder, sampling, seed):
    index, bounds = corpus(folder, seed)
    plan = make_plan(index, sampling, seed=seed, epochs=2)
    stage = decoder(plan, index, DataConfig(decode_size=SHAPE))
    numbers = []
    for unit in plan.units():
        requests = {s.number: s.request for one in plan.samples(unit, index) for s in one}
        for rows in stage(unit):
            for n, number in enumerate(rows["sample"].tolist()):
                assert rows["refused"][n] == ""
                event = index.event(int(rows["instance"][n]))
                request = requests[number]
                for view, time_s, frame in zip(
                    request.views, request.times_s, rows["frames"][n], strict=True
                ):
                    first, last = bounds[event.event_id, int(view)]
                    shown = frame_number(frame)
                    assert first <= shown < last
                    assert shown == first + int(time_s * FPS + 1e-6)
                numbers.append(number)
    assert numbers == list(range(plan.total))


def test_what_is_known_of_a_span_counts_from_its_first_frame(folder):
    whole = probe(str(folder / "a.mp4"))
    spans = [Span(1.0, 3.0), Span(1.0, 1.04), Span(2.99, 3.01), Span(0.5, float("inf"))]
    found = probe_spans(str(folder / "a.mp4"), [None, *spans])
    assert found[0] == whole
    assert [info.frames for info in found[1:]] == [50, 1, 1, FRAMES - 13]
    assert found[1].span == Span(1.0, 3.0)
    assert found[3].span == pytest.approx((3.0, 3.04))
    assert found[4].span == Span(0.52, whole.duration_s)
    for info in found[1:]:
        assert info.span is not None
        start, end = info.span
        assert info.duration_s == pytest.approx(end - start)
        assert info.fps == whole.fps
        inside = [key - start for key in whole.keyframes if start <= key < end]
        np.testing.assert_allclose(info.keyframes, inside, atol=1e-9)
        assert len(info.motion) == max(1, int((info.frames - 1) / FPS * info.motion_hz + 1e-9) + 1)


def test_cuts_and_varying_rates_are_those_of_the_file(tmp_path):
    ticks = np.cumsum([0, *np.random.default_rng(0).integers(20, 70, 119)]).tolist()
    encode_video(
        tmp_path / "v.mkv", 120, ticks=ticks, time_base=Fraction(1, 1000), cuts=[40, 80], gop=200
    )
    whole, part = probe_spans(str(tmp_path / "v.mkv"), [None, FrameSpan(30, 90)])
    assert whole.cuts
    assert part.span is not None
    start, end = part.span
    assert start == pytest.approx((ticks[30] - ticks[0]) / 1000)
    expected = [cut - start for cut in whole.cuts if start < cut < end]
    np.testing.assert_allclose(part.cuts, expected, atol=1e-9)
    index = listed(tmp_path, ["v.mkv,30,90"], columns="path,start_frame,end_frame")
    rows = ReadPart(index.reader, 0, SHAPE).columns(FrameParts(index, 0)[0])
    assert [frame_number(frame) for frame in rows["frames"]] == list(range(30, 90))


@pytest.mark.parametrize("kind", ["vectors", "flow"])
def test_decoded_motion_of_spans_is_that_of_the_file(folder, kind):
    uri = str(folder / "a.mp4")
    whole, part = probe_spans(uri, [None, Span(4.0, 8.0)], motion=kind)
    np.testing.assert_allclose(part.motion, whole.motion[16:32], rtol=0.05, atol=1e-4)


def test_spans_that_cannot_be_had_say_why(folder):
    lines = ["a.mp4,15,99", "a.mp4,50,60", "a.mp4,0.011,0.012", "gone.mp4,0,1"]
    index = listed(folder, lines, columns="path,start,end")
    rows = {row["video_id"]: row for row in make_index([str(folder / "list.csv")]).to_pylist()}
    cut = rows["a.mp4#15.000-99.000"]
    assert (cut["status"], cut["frames"], cut["end_s"]) == ("ok", 25, 16.0)
    assert "is cut at the end of the file (16.000 s)" in cut["error"]
    assert "lies after the end of the file" in rows["a.mp4#50.000-60.000"]["error"]
    assert "no frame begins within" in rows["a.mp4#0.011-0.012"]["error"]
    assert "no such file" in rows["gone.mp4#0.000-1.000"]["error"]
    plan = make_plan(index, FramesSampling(), seed=0, epochs=1)
    assert (plan.total, plan.refused) == (1, {"unreadable": 3})


def test_times_outside_a_span_are_refused(folder):
    span = Span(2.0, 3.0)
    asked = {
        "before": -0.01,
        "first": 0.0,
        "last": 0.99,
        "rounded": 0.99999,
        "end": 1.01,
        "no": np.nan,
    }
    requests = [FrameRequest(name, np.array([t]), span=span) for name, t in asked.items()]
    for sound in (False, True):
        run = read_plan(str(folder / "b.mkv"), requests, sound=sound)
        got = {clip.request_id: (frame_number(clip.frames[0]), clip.shown_s[0]) for clip in run}
        assert {name: number for name, (number, _) in got.items()} == {
            "first": 50, "last": 74, "rounded": 74,
        }  # fmt: skip
        assert got["last"][1] == pytest.approx(0.96)
        assert run.failures == {"before": "before_start", "end": "past_end", "no": "before_start"}
    shown = [
        n
        for pictures, _ in frames(str(folder / "a.mp4"), span=span)
        for n in map(frame_number, pictures)
    ]
    assert shown == list(range(50, 75))
    assert len(motion_energy(str(folder / "a.mp4"), 25.0, span=span)) == 24


def test_a_span_of_a_long_file_is_found_by_seeking(tmp_path):
    path = str(encode_video(tmp_path / "long.mp4", 1600, fps=10, gop=30))
    for first in (600, 601):  # the frame after a span is a keyframe, or follows one
        span = Span(first / 10, first / 10 + 3)
        request = FrameRequest(0, np.array([0.05, 2.99999]), span=span)
        times_s = request.file_times_s()
        with open_decoder(path, "pyav", 0, 1, float("inf"), DecodeStats(), times_s) as decoder:
            assert decoder.partial
        (clip,) = read_plan(path, [request])
        assert [frame_number(frame) for frame in clip.frames] == [first, first + 29]
        for start, stop, shown in ((0, 9, range(30)), (1.04, 2.01, range(10, 21))):
            got = read_range(path, start, stop, span=span)
            assert [frame_number(frame) for frame in got.frames] == [first + n for n in shown]
            np.testing.assert_allclose(got.shown_s, np.array(shown) / 10, atol=1e-9)
            assert not got.lost
        with pytest.raises(InputError, match="no frame could be had"):
            read_range(path, 9, 10, span=span)


def test_embeddings_show_every_frame_of_a_span_and_no_other(folder):
    index, bounds = corpus(folder, 3)
    seen = Counter()
    for part in FrameParts(index, 0):
        rows = ReadPart(index.reader, 0, SHAPE).columns(part)
        assert not any(rows["refused"])
        for event, view, frame, picture in zip(
            rows["event"], rows["view"], rows["frame"], rows["frames"], strict=True
        ):
            first, last = bounds[event, int(view)]
            assert frame_number(picture) == first + frame < last
            seen[event, int(view)] += 1
    assert seen == {key: last - first for key, (first, last) in bounds.items()}


def test_tracks_and_pictures_show_no_frame_outside_a_span(folder):
    index, bounds = corpus(folder, 4)
    miner = TrackMiner(TracksMining())
    units = TrackUnits(index, miner.settings)
    for unit in units:
        video = index.video(unit.row)
        first, last = bounds[video.event, int(video.view)]
        read_frames = miner._read(video, unit.start_s, unit.stop_s)
        shown = [frame_number(frame) for frame in read_frames.frames]
        assert shown == list(range(first, last))
        np.testing.assert_allclose(read_frames.shown_s, np.arange(last - first) / FPS, atol=2e-3)
        assert frame_number(frame_of(video, video.duration_s - 0.001, 48)) == last - 1


def counting_groups(monkeypatch):
    """How often each file is opened for a plan, and each of its groups decoded: (file, first
    packet of the group) -> times."""
    opened, decoded = Counter(), Counter()
    real = pyav_backend.PyavDecoder._decode_planned

    def counting(decoder, runs, places):
        opened[decoder._uri] += 1
        for run in runs:
            keys = np.flatnonzero(decoder.timeline.key)
            decoded.update((decoder._uri, int(k)) for k in keys if run.start <= k < run.stop)
        return real(decoder, runs, places)

    monkeypatch.setattr(pyav_backend.PyavDecoder, "_decode_planned", counting)
    return opened, decoded


def test_a_unit_holds_neighbours_opens_a_file_once_and_decodes_a_group_once(folder, monkeypatch):
    index = listed(
        folder,
        [
            f"{name},{n / 10},{n / 10 + 0.8}"
            for name in ("a.mp4", "b.mkv")
            for n in range(0, 150, 4)
        ],
        columns="path,start,end",
    )
    plan = make_plan(index, ClipsSampling(num_frames=4, spacing_s=0.04), seed=0, epochs=1)
    units = list(plan.units())
    assert len(units) < 4
    opened, decoded = counting_groups(monkeypatch)
    stage = decoder(plan, index, DataConfig(decode_size=SHAPE))
    for unit in units:
        opened.clear()
        decoded.clear()
        files = {
            index.event(s.event).videos[0].uri for one in plan.samples(unit, index) for s in one
        }
        rows = list(stage(unit))
        assert not any(r != "" for r in rows[0]["refused"])
        assert opened == dict.fromkeys(files, 1)
        assert max(decoded.values()) == 1


def test_the_order_of_an_epoch_keeps_neighbours_and_visits_all(folder):
    lines = [f"{name},{n / 25},{(n + 100) / 25}" for name in ("a.mp4", "b.mkv") for n in range(300)]
    index = listed(folder, lines, columns="path,start,end", motion="none")
    plan = make_plan(index, FramesSampling(), seed=1, epochs=2)
    first, second = plan.order(0), plan.order(1)
    assert sorted(first) == sorted(second) == list(range(600))
    assert list(first) != list(second)
    for unit in plan.units():
        events = plan.events[plan.order(unit.epoch)[unit.start : unit.stop]]
        videos = [index.event(int(n)).videos[0] for n in events]
        assert len({video.uri for video in videos}) == 1
        starts = sorted(video.span.start_s for video in videos if video.span)
        np.testing.assert_allclose(np.diff(starts), 0.04, atol=2e-3)  # neighbours, none left out
        assert sum(video.frames for video in videos) <= UNIT_FRAMES


def test_an_index_with_spans_has_a_digest_and_a_place_for_every_span(folder):
    index, _ = corpus(folder, 5)
    other, _ = corpus(folder, 6)
    assert index.digest != other.digest
    assert index.has_spans
    starts = [(e.videos[0].uri, e.videos[0].start_s) for e in index.events()]
    assert starts == sorted(starts)
    noted = listed(folder, ["a.mp4,0,1,hello"], columns="path,start,end,note").video(0)
    assert json.loads(noted.extra or "") == {"note": "hello"}


def spans_of_real_videos(videos, folder, seed):
    """An index of random spans of all files: some overlap, some touch."""
    rng = np.random.default_rng(seed)
    lines = []
    for path in sorted(p for p in videos.rglob("*") if p.is_file()):
        info = probe(str(path), motion="none")
        if info.frames < 3:
            continue
        edges = np.sort(rng.uniform(0, info.duration_s, 4))
        starts = rng.uniform(0, info.duration_s * 0.9, 4)
        ends = np.minimum(info.duration_s, starts + rng.uniform(1.5 / info.fps, 3, 4))
        for start, end in [*pairwise(edges), *zip(starts, ends, strict=True)]:
            lines.append(f"{path.relative_to(videos)},{start},{end}")
    (folder / "list.csv").write_text("\n".join(["path,start,end", *lines]) + "\n")
    table = make_index([str(folder / "list.csv")], lists=ListOptions(root=str(videos)))
    write_index(table, str(folder / "index.parquet"))
    return Index.load(str(folder / "index.parquet"))


@pytest.mark.data
def test_of_real_videos_each_group_is_decoded_once_for_all_spans_of_a_unit(
    shared_data, tmp_path, monkeypatch
):
    index = spans_of_real_videos(shared_data / "videos", tmp_path, 11)
    assert len({video.uri for event in index.events() for video in event.videos}) > 25
    _, decoded = counting_groups(monkeypatch)
    damaged = {v.uri for e in index.events() for v in e.videos if v.status != "ok"}

    def once(read):
        """Decode each group once; files with damage are decoded once more on purpose."""
        decoded.clear()
        read()
        return [key for key, times in decoded.items() if times > 1 and key[0] not in damaged]

    for sampling in (FramesSampling(per_video=3), ClipsSampling(num_frames=4, spacing_s=0.04)):
        plan = make_plan(index, sampling, seed=5, epochs=1)
        data = DataConfig(decode_size=32)
        stage = decoder(plan, index, data)
        stored = SamplePart(
            str(tmp_path / sampling.kind), ImageConfig(), *settings_of(plan, index, data)
        )
        for number, unit in enumerate(plan.units()):
            assert not once(lambda unit=unit, stage=stage: list(stage(unit)))
            work = SampleWork(number, plan.work(unit, index, Position()))
            assert not once(lambda work=work, stored=stored: list(stored(work)))
    for part in FrameParts(index, 0, size=4000):
        assert not once(lambda part=part: ReadPart(index.reader, 0, (32, 32)).columns(part))


@pytest.mark.data
def test_random_spans_of_real_videos_show_no_frame_outside(shared_data, tmp_path):
    rng = np.random.default_rng(7)
    files = sorted(p for p in (shared_data / "videos").iterdir() if p.is_file())
    lines = []
    for path in files:
        info = probe(str(path), motion="none")
        for start in rng.uniform(0, info.duration_s * 0.9, 5):
            end = min(info.duration_s, start + rng.uniform(1.5 / info.fps, 3))
            lines.append(f"{path.name},{start},{end}")
    (tmp_path / "list.csv").write_text("\n".join(["path,start,end", *lines]) + "\n")
    table = make_index(
        [str(tmp_path / "list.csv")], lists=ListOptions(root=str(shared_data / "videos"))
    )
    index = Index(table, "list")
    asserted = 0
    whole = {}
    for event in index.events():
        video = event.videos[0]
        if not (video.has_frames and video.span):
            continue
        if video.uri not in whole:
            whole[video.uri] = np.concatenate([t for _, t in frames(video.uri, size=16)])
        times = whole[video.uri]
        inside = times[(times >= video.span.start_s - 1e-6) & (times < video.span.end_s - 1e-6)]
        assert len(inside) == video.frames
        clock = video.frame_clock.middles(np.arange(video.frames))
        run = read_plan(video.uri, [FrameRequest(0, clock, span=video.span)], 16)
        for clip in run:
            np.testing.assert_allclose(clip.shown_s + video.span.start_s, inside, atol=1e-6)
            expected = read(video.uri, inside + 1e-4, 16)
            np.testing.assert_array_equal(clip.frames, expected)
            asserted += 1
    assert asserted > 40
    for sampling in SAMPLERS[:-1]:
        plan = make_plan(index, sampling, seed=0, epochs=1)
        stage = decoder(plan, index, DataConfig(decode_size=32))
        for unit in plan.units():
            for r in stage(unit):
                bad = [why for why in r["refused"] if "before_start" in why or "past_end" in why]
                assert not bad
