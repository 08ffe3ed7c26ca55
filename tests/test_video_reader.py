"""The reader's interface: requests, sizes, crops, ranges, rates, other backends, and refusals."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from marey.configs.errors import DependencyError, InputError, SettingError
from marey.pipeline.video import FrameRequest, frames, probe, read, read_plan, read_range
from marey.pipeline.video.library_backends import open_torchcodec
from marey.pipeline.video.stats import DecodeStats
from tests.videos import encode_video, frame_number, make_odd


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode_video(tmp_path_factory.mktemp("v") / "a.mp4", 60, size=(96, 64), gop=20)


def numbers(pictures: np.ndarray) -> list[int]:
    return [frame_number(picture) for picture in pictures]


def test_times_may_come_in_any_order_and_twice(video: Path) -> None:
    assert numbers(read(str(video), [1.0, 0.0, 2.39, 1.0])) == [25, 0, 59, 25]


def test_a_time_between_frames_means_the_frame_still_shown(video: Path) -> None:
    assert numbers(read(str(video), [0.039, 0.041, 0.079])) == [0, 1, 1]


@pytest.mark.parametrize("fps", [24, 25, 30, Fraction(30000, 1001), 50, 60])
def test_multiples_of_the_frame_time_hit_each_frame_once(fps: Fraction, tmp_path: Path) -> None:
    """Also where the container rounds times to milliseconds."""
    for suffix in (".mkv", ".mp4"):
        path = encode_video(tmp_path / f"a{suffix}", 40, fps=fps)
        times = np.arange(40) / float(fps)
        assert numbers(read(str(path), times)) == list(range(40))


def test_the_end_is_open_and_the_reason_is_named(video: Path) -> None:
    duration = probe(str(video)).duration_s
    assert numbers(read(str(video), [duration - 0.001])) == [59]
    requests = [
        FrameRequest("late", np.array([0.0, duration + 0.01])),
        FrameRequest("early", np.array([-0.01])),
        FrameRequest("good", np.array([0.2])),
        FrameRequest("nan", np.array([np.nan])),
    ]
    run = read_plan(str(video), requests)
    assert [clip.request_id for clip in run] == ["good"]
    assert run.failures == {"late": "past_end", "early": "before_start", "nan": "before_start"}


def test_a_request_is_delivered_as_soon_as_it_is_complete(video: Path) -> None:
    requests = [
        FrameRequest("long", np.array([0.0, 2.0])),
        FrameRequest("short", np.array([0.1])),
    ]
    run = read_plan(str(video), requests)
    assert next(run).request_id == "short"
    assert run.stats.packets < 40
    assert next(run).request_id == "long"


def test_leaving_a_run_early_releases_the_file(video: Path) -> None:
    run = read_plan(str(video), [FrameRequest(k, np.array([k / 25])) for k in range(50)])
    next(run)
    run.close()
    assert list(run) == []


@pytest.mark.parametrize(
    ("size", "fit", "shape"),
    [
        (None, "stretch", (64, 96)),
        (32, "stretch", (32, 48)),
        ((40, 40), "stretch", (40, 40)),
        ((40, 40), "cover", (40, 40)),
        (128, "stretch", (128, 192)),
    ],
)
def test_sizes(video: Path, size: object, fit: str, shape: tuple[int, int]) -> None:
    assert read(str(video), [0.4], size, fit=fit).shape == (1, *shape, 3)  # pyright: ignore


def test_cover_keeps_shapes_and_stretch_does_not(tmp_path: Path) -> None:
    """A centred disc stays round under cover, and becomes an ellipse under stretch."""
    y, x = np.mgrid[0:60, 0:120]
    disc = ((x - 59.5) ** 2 + (y - 29.5) ** 2 < 20**2)[..., None] * np.uint8(255)
    rgb = np.repeat(disc, 3, axis=-1)
    path = encode_video(tmp_path / "disc.mp4", 2, size=(120, 60), draw=lambda _: rgb)
    for fit, ratio in (("cover", 1.0), ("stretch", 0.5)):
        seen = read(str(path), [0.0], (60, 60), fit=fit)[0, ..., 1] > 127  # pyright: ignore
        assert seen.any(axis=0).sum() / seen.any(axis=1).sum() == pytest.approx(ratio, abs=0.06)


def test_anamorphic_pixels_come_out_square(tmp_path: Path) -> None:
    path = make_odd("anamorphic", tmp_path)  # 64x48 with pixels of 4:3
    assert read(str(path), [0.0], 48).shape[1:3] == (48, 85)
    assert read(str(path), [0.0]).shape[1:3] == (48, 64)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_crops_are_fractions_of_the_picture_as_displayed(turn: int, tmp_path: Path) -> None:
    """The coded top left quarter is white; it is found where the display turns it to."""
    rgb = np.zeros((48, 64, 3), dtype=np.uint8)
    rgb[:24, :32] = 255
    path = encode_video(tmp_path / "q.mp4", 2, rotation=turn, draw=lambda _: rgb)
    whole = read(str(path), [0.0])[0]
    assert whole.shape[:2] == ((64, 48) if turn % 180 else (48, 64))
    corner = {0: (0.0, 0.0), 90: (0.5, 0.0), 180: (0.5, 0.5), 270: (0.0, 0.5)}[turn]
    for x in (0.0, 0.5):
        for y in (0.0, 0.5):
            part = read(str(path), [0.0], 24, crop=(x, y, 0.5, 0.5))[0]
            inner = part[4:-4, 4:-4].mean()
            assert inner > 230 if (x, y) == corner else inner < 20


def test_crops_of_one_frame_are_decoded_once(video: Path) -> None:
    boxes = [(0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5), None]
    requests = [FrameRequest(k, np.array([0.0]), box) for k, box in enumerate(boxes)]
    run = read_plan(str(video), requests)
    clips = {clip.request_id: clip.frames[0] for clip in run}
    assert run.stats.decoded == 1
    assert clips[0].shape == clips[1].shape == (32, 48, 3)
    # The chroma of a crop is taken as centred on its luma, off by a quarter sample at most.
    inner = clips[2][34:62, 50:94].astype(int) - clips[1][2:30, 2:46]
    assert np.abs(inner).mean() < 4
    assert abs(inner.mean()) < 0.5


def test_a_range_holds_every_frame_of_it(video: Path) -> None:
    pictures, times, lost = read_range(str(video), 0.41, 0.8)
    assert numbers(pictures) == list(range(10, 20))
    np.testing.assert_allclose(times, np.arange(10, 20) / 25)
    assert lost == {}
    with pytest.raises(InputError, match="no frame"):
        read_range(str(video), 100, 101)


@pytest.mark.parametrize(("fps", "step"), [(None, 1), (5, 5), (12.5, 2)])
def test_walking_through_a_video_at_a_rate(video: Path, fps: float | None, step: int) -> None:
    seen: list[int] = []
    for pictures, times in frames(str(video), fps, chunk=7):
        assert len(pictures) <= 7
        np.testing.assert_allclose(times * 25, numbers(pictures))
        seen += numbers(pictures)
    assert seen == list(range(0, 60, step))


def test_a_rate_above_the_videos_gives_each_frame_once(video: Path) -> None:
    assert sum(len(pictures) for pictures, _ in frames(str(video), 200, 48)) == 60


def test_more_decoder_threads_give_the_same_frames(video: Path) -> None:
    requests = [FrameRequest(0, np.arange(60) / 25)]
    one, four = (next(read_plan(str(video), requests, threads=n)).frames for n in (1, 4))
    assert np.array_equal(one, four)


def test_a_file_uri_and_a_name_with_a_colon_are_plain_files(tmp_path: Path) -> None:
    path = encode_video(tmp_path / "http:a b%20.mp4", 3)
    assert read(str(path), [0.0]).shape == read(f"file://{path}", [0.0]).shape
    assert probe(str(path)).frames == 3


def test_a_remote_file_system_is_read_through_pyarrow(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same frames through a file object as through a path."""
    import pyarrow.fs

    local = pyarrow.fs.LocalFileSystem()
    found = SimpleNamespace(from_uri=lambda uri: (local, uri.removeprefix("s3:/")))
    monkeypatch.setattr(pyarrow.fs, "FileSystem", found)
    times = [0.0, 1.0, 2.0]
    assert np.array_equal(read(f"s3:/{video}", times), read(str(video), times))
    assert probe(f"s3:/{video}") == probe(str(video))


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
@pytest.mark.parametrize("name", ["plain", "b_pyramid", "variable_rate", "hevc", "rotated_90"])
def test_backends_deliver_the_same_frames(backend: str, name: str, tmp_path: Path) -> None:
    """Up to their colour conversion: another frame of these videos differs by far more."""
    pytest.importorskip(backend)
    if backend == "decord" and name == "rotated_90":
        pytest.skip("decord 0.6 mixes up the row length of some rotated pictures and refuses")
    path = make_odd(name, tmp_path)
    info = probe(str(path))
    times = np.linspace(0, info.duration_s - 0.01, 12)
    ours = read(str(path), times).astype(float)
    try:
        theirs = read(str(path), times, backend=backend).astype(float)  # pyright: ignore
    except DependencyError as error:
        pytest.skip(str(error))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean(axis=(1, 2, 3)).max() < 6
    if name != "rotated_90":
        assert numbers(ours) == numbers(theirs)


def test_a_backend_that_is_not_installed_says_what_to_install(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(DependencyError, match="pip install torchcodec"):
        open_torchcodec(str(video), 0, 1, float("inf"), DecodeStats())


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": (10,)},
        {"size": (10, -1)},
        {"size": True},
        {"fit": "crop"},
        {"stream": -1},
        {"backend": "vlc"},
        {"crop": (0.5, 0.5, 0.6, 0.1)},
    ],
)
def test_settings_that_mean_nothing_are_refused(video: Path, wrong: dict) -> None:
    with pytest.raises(SettingError):
        read(str(video), [0.0], **wrong)


def test_two_requests_of_one_name_are_refused(video: Path) -> None:
    with pytest.raises(SettingError, match="same request_id"):
        read_plan(str(video), [FrameRequest(1, np.zeros(1)), FrameRequest(1, np.ones(1))])


def test_a_stream_that_is_not_there_is_refused(video: Path) -> None:
    with pytest.raises(InputError, match="1 video stream"):
        read(str(video), [0.0], stream=1)


def test_the_engine_imports_neither_torch_nor_ray() -> None:
    loaded = "[m for m in ('torch', 'ray', 'decord') if m in sys.modules]"
    code = f"import sys, marey.pipeline.video; print({loaded})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=True,
    )
    assert done.stdout.strip() == "[]"
