"""Small frames look as they should: close to an exact area average, no shift of colour or place."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from marey.pipeline.video import FrameRequest, probe, read, read_plan
from marey.pipeline.video.convert import Converter
from marey.pipeline.video.display import UPRIGHT
from marey.pipeline.video.fit import plan_geometry
from marey.pipeline.video.yuv import rgb_matrix
from tests.videos import encode_video

LEFT_SITED, CENTRED = 0.0, 0.5


def planes_of(frame: av.VideoFrame) -> list[np.ndarray]:
    """Y, U, V as float64 on a scale of 8 bits."""
    deep = frame.format.components[0].bits
    found = []
    for plane in frame.planes[:3]:
        kind = np.uint8 if deep == 8 else np.uint16
        rows = np.frombuffer(plane, dtype=kind).reshape(plane.height, -1)[:, : plane.width]
        found.append(rows.astype(np.float64) / 2 ** (deep - 8))
    return found


def area_weights(source: int, target: int) -> np.ndarray:
    """Rows that average exactly the source pixels under each target pixel: [target, source]."""
    edges = np.arange(target + 1) * source / target
    low = np.maximum(edges[:-1, None], np.arange(source))
    high = np.minimum(edges[1:, None], np.arange(source) + 1)
    weights = np.maximum(high - low, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def grow(plane: np.ndarray, height: int, width: int, site_x: float) -> np.ndarray:
    """Chroma at luma size, linear; vertically centred, horizontally at `site_x` of two pixels."""

    def along(count: int, target: int, site: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ratio = target / count
        at = (np.arange(target) - (ratio - 1) * site) / ratio
        at = np.clip(at, 0, count - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, count - 1), at - low

    low, high, part = along(plane.shape[0], height, 0.5)
    plane = plane[low] * (1 - part)[:, None] + plane[high] * part[:, None]
    low, high, part = along(plane.shape[1], width, site_x)
    return plane[:, low] * (1 - part) + plane[:, high] * part


def exact_area(frame: av.VideoFrame, height: int, width: int, full: bool) -> np.ndarray:
    """The reference: full decode, everything in float64, exact area average, then colour."""
    luma, *chroma = planes_of(frame)
    chroma = [grow(c, *luma.shape, LEFT_SITED) for c in chroma]
    down, across = area_weights(luma.shape[0], height), area_weights(luma.shape[1], width)
    yuv = np.stack([down @ p @ across.T for p in (luma, *chroma)], axis=-1)
    matrix = rgb_matrix(frame.colorspace, full).astype(np.float64)
    return np.clip(yuv @ matrix[:, :3].T + matrix[:, 3], 0, 255)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2)))


def check(path: Path, size: int, limit_db: float, *, every: int = 10) -> float:
    """Delivered frames against the reference; returns the worst PSNR in dB."""
    info = probe(str(path))
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = list(container.decode(video))
        base = float(video.time_base or 1)
    times = [(f.pts - frames[0].pts) * base for f in frames]  # pyright: ignore
    chosen = range(0, len(frames), every)
    got = read(str(path), [times[k] for k in chosen], size)
    full = frames[0].color_range == 2 or frames[0].format.name.startswith("yuvj")
    assert info.rotation == 0
    worst = np.inf
    for k, picture in zip(chosen, got, strict=True):
        expected = exact_area(frames[k], *picture.shape[:2], full)
        worst = min(worst, psnr(picture, expected))
        assert np.abs((picture - expected).mean(axis=(0, 1))).max() < 0.5, "a shift of colour"
    assert worst >= limit_db
    return worst


def photo(width: int, height: int) -> Callable[[int], np.ndarray]:
    """Frames with the spectrum of photographs: amplitude falls as one over frequency."""
    rng = np.random.default_rng(3)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    fall = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width))
    noise = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(height, width))) * fall).real for _ in "rgb"]
    planes = [n / n.std() for n in noise]
    rgb = np.stack([120 + 40 * planes[0] + 15 * p for p in planes], axis=-1)
    still = np.clip(rgb, 0, 255).astype(np.uint8)
    return lambda index: np.roll(still, 3 * index, axis=1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"full_range": True},
        {"bt709": True},
        {"pix_fmt": "yuv420p10le"},
        {"pix_fmt": "yuv444p"},
        {"codec": "mpeg4"},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "plain",
)
@pytest.mark.parametrize("size", [224, 97])
def test_small_frames_match_an_exact_area_average(options: dict, size: int, tmp_path: Path) -> None:
    path = encode_video(tmp_path / "a.mp4", 3, size=(480, 360), draw=photo(480, 360), **options)
    check(path, size, 44.0, every=1)


def displacement(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Sub-pixel shift (down, right) between two planes, from the phase of their spectra."""
    a, b = a - a.mean(), b - b.mean()
    window = np.outer(np.hanning(a.shape[0]), np.hanning(a.shape[1]))
    cross = np.fft.fft2(a * window) * np.conj(np.fft.fft2(b * window))
    fy = np.fft.fftfreq(a.shape[0])[:, None] + 0 * cross.real
    fx = np.fft.fftfreq(a.shape[1])[None, :] + 0 * cross.real
    low = (np.hypot(fy, fx) < 0.12) & (np.hypot(fy, fx) > 0)
    weight = np.abs(cross[low])
    rows = -2 * np.pi * np.stack([fy[low], fx[low]], axis=1)
    solved = np.linalg.lstsq(rows * weight[:, None], np.angle(cross[low]) * weight, rcond=None)[0]
    return float(solved[0]), float(solved[1])


def test_nothing_is_shifted(tmp_path: Path) -> None:
    """Luma and each colour lie where the reference has them, to a twentieth of a pixel."""
    path = encode_video(tmp_path / "a.mp4", 1, size=(480, 360), draw=photo(480, 360))
    got = read(str(path), [0.0], 200)[0].astype(float)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    expected = exact_area(frame, *got.shape[:2], False)
    for pick in (lambda p: p.mean(axis=-1), lambda p: p[..., 0] - p[..., 1], lambda p: p[..., 2]):
        down, right = displacement(pick(got), pick(expected))
        assert abs(down) < 0.05
        assert abs(right) < 0.05
    moved = displacement(np.roll(got[..., 0], 1, axis=1), got[..., 0])
    assert abs(moved[1]) == pytest.approx(1, abs=0.1), "the measure itself sees one pixel"


@pytest.mark.parametrize(
    ("colour", "options"),
    [
        ((200, 30, 40), {}),
        ((20, 180, 60), {"full_range": True}),
        ((30, 60, 220), {"bt709": True}),
        ((128, 128, 128), {"pix_fmt": "gray"}),
        ((250, 250, 10), {"pix_fmt": "yuv420p10le"}),
        ((40, 220, 210), {"codec": "libvpx-vp9"}),
        ((90, 20, 130), {"codec": "ffv1", "pix_fmt": "bgr0"}),
    ],
)
def test_a_plain_colour_comes_back(colour: tuple[int, ...], options: dict, tmp_path: Path) -> None:
    """Through the encoder's own conversion and back, whatever matrix, range and depth."""
    flat = np.full((48, 64, 3), colour, dtype=np.uint8)
    path = encode_video(tmp_path / "c.mkv", 2, draw=lambda _: flat, **options)
    for size in (None, 24, 96):
        seen = read(str(path), [0.0], size).mean(axis=(0, 1, 2))
        np.testing.assert_allclose(seen, colour, atol=4)


@pytest.mark.parametrize("pix_fmt", ["gray", "gray16le", "grayf32le", "ya8", "monob"])
def test_a_part_of_a_picture_is_that_part_at_every_depth(pix_fmt: str) -> None:
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None], 48, axis=0)
    for full_range in (0, 2):
        frame = av.VideoFrame.from_ndarray(ramp, format="gray").reformat(format=pix_fmt)
        frame.color_range = full_range
        whole, part = np.empty((48, 64, 3), np.uint8), np.empty((24, 16, 3), np.uint8)
        for out, box in ((whole, None), (part, (0.5, 0.25, 0.25, 0.5))):
            geometry = plan_geometry(64, 48, Fraction(1), UPRIGHT, None, box=box)
            Converter().into(frame, geometry, out)
        difference = np.abs(part.astype(int) - whole[12:36, 32:48])
        assert difference.mean() < 3


def grey_with_matrix(path: Path, matrix: str) -> Path:
    """A grey video that names a matrix; grey is the same in all of them."""
    grey = np.full((48, 64, 3), 128, dtype=np.uint8)
    options = {"x264-params": f"colormatrix={matrix}"}
    return encode_video(path, 2, draw=lambda _: grey, options=options)


def test_a_matrix_that_libswscale_refuses_is_ours_to_apply(tmp_path: Path) -> None:
    path = grey_with_matrix(tmp_path / "c.mkv", "bt2020c")
    for size, crop in ((None, None), (24, None), (24, (0.0, 0.0, 0.5, 0.5))):
        assert np.abs(read(str(path), [0.0], size, crop=crop).astype(int) - 128).max() <= 2


def test_a_matrix_that_nobody_can_apply_is_a_reason_and_no_exception(tmp_path: Path) -> None:
    path = grey_with_matrix(tmp_path / "c.mkv", "ICtCp")
    run = read_plan(str(path), [FrameRequest("a", [0.0])], 24)
    assert list(run) == []
    assert run.failures == {"a": "unreadable"}
    assert "matrix 14" in (run.error or "")


def woven(upper: int, lower: int) -> np.ndarray:
    """A picture with another grey in every second row."""
    rows = np.where(np.arange(96)[:, None, None] % 2, lower, upper)
    return np.broadcast_to(rows, (96, 128, 3)).astype(np.uint8)


@pytest.mark.parametrize("crop", [None, (0.1, 0.04, 0.5, 0.9)])
@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_of_interlaced_pictures_that_shrink_one_field_is_taken(
    codec: str, crop: tuple[float, float, float, float] | None, tmp_path: Path
) -> None:
    fields = {"libx264": {"crf": "4", "x264-params": "tff=1"}, "mpeg2video": {"flags": "+ildct"}}
    for name, options in (("interlaced", fields[codec]), ("plain", {"crf": "4"})):
        encode_video(
            tmp_path / f"{name}.mkv", 3, size=(128, 96), codec=codec, b_frames=0, options=options,
            draw=lambda _: woven(200, 60),
        )  # fmt: skip
    interlaced = read(str(tmp_path / "interlaced.mkv"), [0.0], 40, crop=crop)
    plain = read(str(tmp_path / "plain.mkv"), [0.0], 40, crop=crop)
    assert np.abs(interlaced.astype(int) - 200).max() <= 6
    assert abs(plain.mean() - 130) <= 3  # the mean of both
    if crop is None:
        whole = read(str(tmp_path / "interlaced.mkv"), [0.0], None)
        assert whole[0, 0::2].mean() > 190
        assert whole[0, 1::2].mean() < 70


@pytest.mark.data
def test_real_videos_match_an_exact_area_average(shared_data: Path) -> None:
    """Photographic content at 224 pixels: at least 40 dB everywhere."""
    worst = {}
    for name in ("vtest.avi", "bikes.mp4", "car-detection.mp4", "bigbuckbunny.mp4", "asl/walk.mkv"):
        worst[name] = check(shared_data / "videos" / name, 224, 40.0, every=40)
    print({name: round(db, 1) for name, db in worst.items()})
