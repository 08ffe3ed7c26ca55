"""Units carry what they need: what decodes knows no corpus, and is given no more of a large one."""

import pickle

import numpy as np
import pytest

from benchmarks.scale import COLUMNS, measured
from marey.configs.sampling import TimePairsSampling
from marey.configs.schema import DataConfig
from marey.pipeline.data.index import Index
from marey.pipeline.data.source import Reopened, open_source
from marey.pipeline.embedding.embed import embed
from marey.pipeline.embedding.frame_parts import FrameParts, frame_count, frame_numbers
from marey.pipeline.mining.sample_part import SampleSupply
from marey.pipeline.stream.decode import DecodeStage, settings_of
from marey.pipeline.stream.plan import Position, make_plan
from marey.pipeline.stream.samples import stream_here
from marey.pipeline.stream.supply import UnitSupply
from marey.pipeline.video.frame_clock import FrameClock
from tests.corpora import Rows, encode_corpus, make_event, make_video

DATA = DataConfig(decode_size=32)
PAIRS = TimePairsSampling(pairs=4, per_video=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return str(encode_corpus(tmp_path_factory.mktemp("corpus"), events=3))


def refuse(*_):
    raise AssertionError("an index is opened")


def test_units_are_decoded_where_no_index_can_be_opened(corpus, monkeypatch):
    source = open_source(corpus)
    plan = make_plan(source, PAIRS, seed=0, epochs=2)
    done = Position(2, [4, 7])
    wanted = list(stream_here(plan, source, DATA, done))
    supply = UnitSupply(plan, Reopened(source), done)
    sent = [pickle.dumps(supply(unit)) for unit in plan.units(done)]
    stage = pickle.dumps(settings_of(plan, source, DATA))
    monkeypatch.setattr(Index, "load", refuse)
    monkeypatch.setattr(Index, "__init__", refuse)
    decode = DecodeStage(*pickle.loads(stage))
    rows = [rows for unit in sent for rows in decode(pickle.loads(unit))]
    assert [n for r in rows for n in r["sample"]] == [int(s["sample"]) for s in wanted]
    assert np.array_equal(np.concatenate([r["frames"] for r in rows]),
                          np.stack([s["frames"] for s in wanted]))  # fmt: skip
    assert len(wanted) == plan.total - 4


def test_a_source_is_sent_by_its_location_alone(corpus):
    source = open_source(corpus)
    sent = pickle.dumps(Reopened(source))
    assert len(sent) < 200 + len(corpus)
    assert pickle.loads(sent).source.digest == source.digest


def test_only_what_supplies_opens_an_index_to_embed_and_to_mine(corpus, tmp_path, monkeypatch):
    """Opened by the command itself, and nowhere else: the local engine sends nothing."""
    init, opened = Index.__init__, []
    monkeypatch.setattr(Index, "__init__", lambda *words: opened.append(1) or init(*words))
    embed("pixels", corpus, str(tmp_path / "e"), rate=2, engine="local")
    assert len(opened) == 1
    source = open_source(corpus)
    plan = make_plan(source, PAIRS, seed=0, epochs=1)
    work = SampleSupply(plan, Reopened(source))((3, next(plan.units())))
    assert (work.number, len(work.work.visits)) == (3, 3)


def cut(source, rate, size):
    """Parts one frame at a time: (event, view, frame) of each."""
    frames = [
        (event.event_id, view, n)
        for event in (source.event(number) for number in range(len(source)))
        for view, video in enumerate(event.videos)
        if video.has_frames
        for n in range(len(frame_numbers(video, rate)))
    ]
    return [frames[start : start + size] for start in range(0, len(frames), size)]


class Labelled(Rows):
    """Rows that the parts of embeddings can be cut from."""

    labelled = False


@pytest.mark.parametrize("rate", [0.0, 0.7, 12.0, 100.0])
@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_parts_are_cut_as_one_by_one(rate, size):
    random = np.random.default_rng(size)
    events = []
    for n in range(12):
        videos = [
            make_video(f"{n}_{v}", frames=int(random.integers(0, 60)), fps=24.0, event=f"e{n}")
            for v in range(random.integers(1, 3))
        ]
        events.append(make_event(*videos))
    source = Labelled(*events)
    parts = FrameParts(source, rate, size)  # type: ignore[arg-type]
    wanted = cut(source, rate, size)
    got = [
        [(p.event.event_id, p.view, n) for p in part.pieces for n in range(p.start, p.stop)]
        for part in parts
    ]
    assert got == wanted
    assert len(parts) == len(wanted)
    assert [part.frames for part in parts] == [parts.frames_of(n) for n in range(len(parts))]
    assert parts.frames == sum(map(len, wanted))


@pytest.mark.parametrize("rate", [0.0, 0.3, 5.0, 24.0, 25.1])
def test_counted_frames_are_those_that_are_numbered(rate):
    for frames in (1, 2, 5, 47, 1000):
        for fps in (7.5, 24.0, 29.97):
            video = make_video(frames=frames, fps=fps)
            assert frame_count(video, rate) == len(frame_numbers(video, rate))
    clock = FrameClock.of([(0, 0.0), (10, 5.0), (40, 6.0)])
    video = make_video(frames=40, fps=40 / 6)
    object.__setattr__(video, "frame_times", clock)
    assert frame_count(video, rate) == len(frame_numbers(video, rate))


def test_what_is_sent_to_who_decodes_does_not_grow_with_the_corpus():
    """The benchmark at small sizes, the larger one beyond what is held in memory."""
    small, large = measured([200, 2000])
    assert {*COLUMNS} == {*small} == {*large}
    assert small["stage_bytes"] == large["stage_bytes"] < 4000
    assert large["unit_bytes"] < 1.05 * small["unit_bytes"]
    assert abs(large["actor_mb"] - small["actor_mb"]) < 30
    assert large["first_unit_s"] > 0 < small["plan_s"]
