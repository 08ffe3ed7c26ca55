"""Frame numbers and times of videos whose rate varies, from few numbers in the index."""

import json
from pathlib import Path

import numpy as np
import pytest

from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.data.index import Index
from marey.pipeline.data.index_files import LATER_COLUMNS
from marey.pipeline.embedding.frame_parts import FrameParts, frame_numbers
from marey.pipeline.embedding.read_part import ReadPart
from marey.pipeline.video.frame_clock import FrameClock, knots_of
from tests.videos import encode_video

CASE = Path(__file__).parent / "cases" / "vfr_screen.mp4"


def gaps_of(kind: str, rng: np.random.Generator, count: int) -> np.ndarray:
    return {
        "bursts": np.where(rng.random(count) < 0.05, 9.7, 0.033),
        "two_rates": np.where(np.arange(count) < count // 3, 1 / 24, 1 / 60),
        "irregular": rng.uniform(0.008, 0.09, count),
        "dropped": np.where(rng.random(count) < 0.1, 0.08, 0.04),
        "wild": rng.lognormal(-3, 2, count),
    }[kind]


@pytest.mark.parametrize("kind", ["bursts", "two_rates", "irregular", "dropped", "wild"])
@pytest.mark.parametrize("seed", range(4))
def test_every_frame_is_found_by_its_number_and_every_number_by_its_frame(
    kind: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    edges = np.concatenate([[0], np.cumsum(gaps_of(kind, rng, 200))])
    times, end = edges[:-1], edges[-1]
    clock = FrameClock.of(knots_of(times, end))
    numbers = np.arange(200)
    middles = clock.middles(numbers)
    assert (middles > edges[:-1]).all()
    assert (middles < edges[1:]).all()
    assert np.array_equal(clock.numbers_at((times + edges[1:]) / 2), numbers)


def test_a_constant_rate_takes_no_room_and_a_few_bursts_little() -> None:
    for fps in (23.976, 25.0, 59.94):
        true = np.arange(90_000) / fps
        assert knots_of(true, 90_000 / fps) == ()
        rounded = np.round(true, 3)  # Matroska
        assert knots_of(rounded, 90_000 / fps) == ()
    times = np.arange(9000) / 30
    times[4000:] += 60.0
    assert len(knots_of(times, times[-1] + 1 / 30)) <= 4


@pytest.fixture
def index(tmp_path: Path) -> Index:
    encode_video(tmp_path / "constant.mp4", 20)
    (tmp_path / CASE.name).write_bytes(CASE.read_bytes())
    write_index(make_index([str(tmp_path)]), str(tmp_path / "index.parquet"))
    return Index.load(str(tmp_path / "index.parquet"))


def test_every_frame_is_embedded_once_under_its_own_number(index: Index) -> None:
    from tests.test_video_cases import number_of

    (part,) = FrameParts(index, 0)
    rows = ReadPart(index.reader, 0, (48, 80)).columns(part)
    screen = rows["video_id"] == CASE.name
    assert rows["frame"][screen].tolist() == list(range(32))
    assert [number_of(f) for f in rows["frames"][screen]] == list(range(32))
    assert not any(rows["refused"])
    assert rows["frame"][~screen].tolist() == list(range(20))


def test_a_rate_takes_the_frames_shown_at_even_times(index: Index) -> None:
    times = [t for t, _ in json.loads(Path(f"{CASE}.expect.json").read_text())]
    (video,) = [v for e in index.events() for v in e.videos if v.video_id == CASE.name]
    for rate in (0.5, 5.0, 12.0):
        steps = np.arange(int(np.ceil(video.duration_s * rate))) / rate
        shown = np.unique(np.searchsorted(np.array(times) - 0.0005, steps, side="right") - 1)
        assert frame_numbers(video, rate).tolist() == shown.tolist()


def test_only_videos_whose_rate_varies_have_a_table(index: Index) -> None:
    videos = {v.video_id: v for e in index.events() for v in e.videos}
    assert videos["constant.mp4"].frame_times is None
    assert videos[CASE.name].frame_times is not None


def test_an_index_of_an_earlier_version_opens_and_is_written(tmp_path: Path) -> None:
    encode_video(tmp_path / "a.mp4", 20)
    table = make_index([str(tmp_path)]).drop_columns(list(LATER_COLUMNS))
    import pyarrow.parquet as pq

    pq.write_table(table, str(tmp_path / "old.parquet"))
    old = Index.load(str(tmp_path / "old.parquet"))
    assert frame_numbers(old.video(0), 5.0).tolist() == [0, 5, 10, 15]
    write_index(table, str(tmp_path / "new.parquet"))
    assert Index.load(str(tmp_path / "new.parquet")).digest == old.digest
