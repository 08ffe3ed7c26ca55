"""Tiny encoded videos for tests: ordinary ones, and every oddity that real files have.

`encode_video` writes one file; `ODD_VIDEOS` names the oddities, `make_odd` writes one of them.
Each picture shows moving texture and, in its top rows, its own number in black and white bars, so
that a test can read from the pixels which frame it got (`frame_number`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 10
"""Bars that spell a frame's number, most significant first."""


def picture(index: int, width: int = 64, height: int = 48, *, shot: int = 0) -> np.ndarray:
    """Frame `index` of a made-up scene: uint8 [height, width, 3] RGB. Each `shot` looks different.

    Smooth moving waves, a hard-edged disc on a path of its own, and the number bars on top.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    t = float(index)
    waves = [
        np.sin((x * (1 + shot) + 2 * t) / 9) + np.cos(y / 7 - t / 5),
        np.sin((x + y) / 11 - t / 6) + np.cos((x - y * (1 + shot)) / 13),
        np.cos(x / 8 + t / 9) + np.sin((y * 2 - t) / 15 + shot),
    ]
    rgb = np.stack([127 + 60 * wave for wave in waves], axis=-1)
    centre_x = width * (0.5 + 0.35 * np.sin(t / 6 + shot))
    centre_y = height * (0.6 + 0.2 * np.cos(t / 4))
    disc = (x - centre_x) ** 2 + (y - centre_y) ** 2 < (min(width, height) / 6) ** 2
    rgb[disc] = ((200, 40, 60), (30, 210, 80), (240, 220, 40))[shot % 3]
    rgb[: _bar_height(height)] = np.repeat(
        [255 * (index >> (BITS - 1 - b) & 1) for b in range(BITS)], -(-width // BITS)
    )[:width, None]
    return np.clip(rgb, 0, 255).astype(np.uint8)


def frame_number(rgb: np.ndarray) -> int:
    """The number that the bars of a decoded picture [H, W, 3] spell."""
    height, width = rgb.shape[:2]
    row = rgb[: max(1, _bar_height(height) - 2)].mean(axis=(0, 2))
    bar = -(-width // BITS)
    centres = [min(width - 1, b * bar + bar // 2) for b in range(BITS)]
    return int("".join("1" if row[c] > 127 else "0" for c in centres), 2)


def _bar_height(height: int) -> int:
    return max(4, height // 6)


def encode_video(
    path: Path,
    num_frames: int = 24,
    *,
    size: tuple[int, int] = (64, 48),
    fps: Fraction | int = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    gop: int = 12,
    b_frames: int = 2,
    options: Mapping[str, str] | None = None,
    ticks: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    sar: Fraction | None = None,
    rotation: int = 0,
    full_range: bool = False,
    bt709: bool = False,
    cuts: Sequence[int] = (),
    container_options: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    draw: Callable[[int], np.ndarray] | None = None,
) -> Path:
    """Encode `num_frames` numbered pictures; returns `path`. The suffix chooses the container.

    size: (width, height). gop: longest distance of keyframes in frames. b_frames: at most so many
    in a row. ticks: presentation times in `time_base`, by default 0, 1, 2, ... at 1 / fps.
    rotation: degrees clockwise to display. cuts: frame numbers at which a new shot begins.
    draw: picture for a frame number, instead of `picture`.
    """
    width, height = size
    time_base = time_base or 1 / Fraction(fps)
    with av.open(str(path), "w", container_options=dict(container_options or {})) as container:
        container.metadata.update(tags or {})
        stream = container.add_stream(codec, rate=Fraction(fps))
        context = stream.codec_context
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        context.gop_size = gop
        if codec in ("libx264", "libx265", "mpeg4", "mpeg2video"):
            context.max_b_frames = b_frames
        context.time_base = time_base
        context.options = _encoder_options(codec, gop, b_frames, options or {})
        if sar is not None:
            context.sample_aspect_ratio = sar
        if full_range:
            context.color_range = 2
        if bt709:
            context.colorspace = context.color_primaries = context.color_trc = 1
        if rotation:
            stream.set_display_rotation(-rotation)
        for index in range(num_frames):
            shot = sum(index >= cut for cut in cuts)
            rgb = draw(index) if draw else picture(index, width, height, shot=shot)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
                format=pix_fmt,
                dst_colorspace="ITU709" if bt709 else "ITU601",
                dst_color_range="JPEG" if full_range else "MPEG",
            )
            frame.pts = ticks[index] if ticks is not None else index
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _encoder_options(
    codec: str, gop: int, b_frames: int, extra: Mapping[str, str]
) -> dict[str, str]:
    """Fixed settings that make small files quickly and the same in each run."""
    options: dict[str, str] = {"threads": "1"}
    if codec == "libx264":
        options |= {"preset": "veryfast", "bf": str(b_frames), "crf": "20"}
    elif codec == "libx265":
        quiet = f"log-level=none:pools=none:frame-threads=1:keyint={gop}:bframes={b_frames}"
        own = extra.get("x265-params")
        options |= {"preset": "ultrafast", "x265-params": f"{quiet}:{own}" if own else quiet}
        extra = {k: v for k, v in extra.items() if k != "x265-params"}
    elif codec == "libvpx-vp9":
        options |= {"deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "0"}
    elif codec == "libvpx":
        options |= {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1"}
    elif codec == "libsvtav1":
        options |= {"preset": "12", "crf": "35", "svtav1-params": "lp=1"}
    elif codec in ("mpeg4", "mpeg2video"):
        options |= {"bf": str(b_frames), "qscale": "3", "flags": "+qscale", "global_quality": "354"}
    return options | dict(extra)


def cut_short(path: Path, out: Path, keep: float = 0.6) -> Path:
    """The first `keep` of a file's bytes, written to `out`."""
    data = path.read_bytes()
    out.write_bytes(data[: int(len(data) * keep)])
    return out


def without_key_table(path: Path, out: Path) -> Path:
    """A copy of an MP4 file that does not say which packets are keyframes."""
    out.write_bytes(path.read_bytes().replace(b"stss", b"free"))
    return out


def overwrite_packet(path: Path, out: Path, number: int) -> Path:
    """A copy of an MP4 file in which all but the head of one packet, in decode order, is 0xff.

    The head of an MPEG-2 picture is long: there the last two thirds.
    """
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packet = [packet for packet in container.demux(stream) if packet.size][number]
        head = packet.size // 3 if stream.codec_context.name == "mpeg2video" else 8
        place, content = packet.pos, bytes(packet)
    data = bytearray(path.read_bytes())
    assert place is not None
    assert bytes(data[place : place + len(content)]) == content
    data[place + head : place + len(content)] = bytes([255]) * (len(content) - head)
    out.write_bytes(bytes(data))
    return out


def mutate(path: Path, out: Path, seed: int) -> Path:
    """A damaged copy: bytes overwritten, cut out, doubled or zeroed, the file cut short."""
    rng = np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    for _ in range(int(rng.integers(1, 12))):
        at = int(rng.integers(0, len(data)))
        length = int(min(len(data) - at, rng.integers(1, 64)))
        kind = rng.integers(0, 5)
        if kind == 0:
            data[at : at + length] = rng.bytes(length)
        elif kind == 1:
            data[at : at + length] = bytes(length)
        elif kind == 2 and len(data) > 2 * length:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        else:
            data[at] ^= 1 << int(rng.integers(0, 8))
    if rng.random() < 0.2:
        del data[int(rng.integers(1, len(data))) :]
    out.write_bytes(bytes(data))
    return out


def _variable_ticks(num_frames: int, seed: int = 5) -> list[int]:
    """Irregular presentation times in milliseconds, with one long pause."""
    steps = np.random.default_rng(seed).integers(8, 90, size=num_frames)
    steps[num_frames // 2] = 1500
    return np.cumsum(steps).tolist()


MS = Fraction(1, 1000)

ODD_VIDEOS: dict[str, Callable[[Path], Path]] = {
    "plain": lambda d: encode_video(d / "plain.mp4"),
    "one_frame": lambda d: encode_video(d / "one_frame.mp4", 1),
    "intra_only": lambda d: encode_video(d / "intra_only.mp4", gop=1, b_frames=0),
    "no_b_frames": lambda d: encode_video(d / "no_b_frames.mp4", b_frames=0),
    "b_pyramid": lambda d: encode_video(
        d / "b_pyramid.mp4",
        60,
        gop=30,
        b_frames=7,
        options={"x264-params": "b-pyramid=normal:b-adapt=0:ref=4:scenecut=0"},
    ),
    "open_gop": lambda d: encode_video(
        d / "open_gop.mp4",
        60,
        gop=10,
        b_frames=3,
        options={"x264-params": "open-gop=1:b-adapt=0:scenecut=0"},
    ),
    "intra_refresh": lambda d: encode_video(
        d / "intra_refresh.mp4", 60, gop=12, b_frames=0, options={"x264-params": "intra-refresh=1"}
    ),
    "variable_rate": lambda d: encode_video(
        d / "variable_rate.mp4", 40, ticks=_variable_ticks(40), time_base=MS
    ),
    "variable_rate_mkv": lambda d: encode_video(
        d / "variable_rate_mkv.mkv", 40, ticks=_variable_ticks(40), time_base=MS
    ),
    "late_start": lambda d: encode_video(
        d / "late_start.mkv", 30, ticks=[5000 + 40 * i for i in range(30)], time_base=MS
    ),
    "negative_times": lambda d: encode_video(
        d / "negative_times.mp4",
        30,
        ticks=[-400 + 40 * i for i in range(30)],
        time_base=MS,
        container_options={"avoid_negative_ts": "disabled", "use_editlist": "0"},
    ),
    "edit_list": lambda d: encode_video(
        d / "edit_list.mp4",
        30,
        ticks=[-400 + 40 * i for i in range(30)],
        time_base=MS,
        container_options={"avoid_negative_ts": "disabled", "use_editlist": "1"},
    ),
    "fragmented": lambda d: encode_video(
        d / "fragmented.mp4", 40, container_options={"movflags": "frag_keyframe+empty_moov"}
    ),
    "transport_stream": lambda d: encode_video(d / "transport_stream.ts", 40),
    "raw_h264": lambda d: encode_video(d / "raw_h264.h264", 30),
    "h264_avi": lambda d: encode_video(d / "h264_avi.avi", 30),
    "rotated_90": lambda d: encode_video(d / "rotated_90.mp4", rotation=90),
    "rotated_180": lambda d: encode_video(d / "rotated_180.mp4", rotation=180),
    "rotated_270": lambda d: encode_video(d / "rotated_270.mp4", rotation=270),
    "ten_bit": lambda d: encode_video(d / "ten_bit.mp4", pix_fmt="yuv420p10le"),
    "yuv422": lambda d: encode_video(d / "yuv422.mp4", pix_fmt="yuv422p"),
    "yuv444": lambda d: encode_video(d / "yuv444.mp4", pix_fmt="yuv444p"),
    "grey": lambda d: encode_video(d / "grey.mp4", pix_fmt="gray"),
    "full_range": lambda d: encode_video(d / "full_range.mp4", full_range=True),
    "bt709": lambda d: encode_video(d / "bt709.mp4", bt709=True),
    "odd_size": lambda d: encode_video(d / "odd_size.mp4", size=(67, 51), pix_fmt="yuv444p"),
    "odd_size_420": lambda d: encode_video(
        d / "odd_size_420.webm", size=(67, 51), codec="libvpx-vp9"
    ),
    "anamorphic": lambda d: encode_video(d / "anamorphic.mp4", sar=Fraction(4, 3)),
    "hard_cuts": lambda d: encode_video(d / "hard_cuts.mp4", 90, gop=250, cuts=(31, 58)),
    "long_gop": lambda d: encode_video(d / "long_gop.mp4", 120, gop=120, b_frames=3),
    "hevc": lambda d: encode_video(d / "hevc.mp4", 40, codec="libx265", b_frames=4),
    "hevc_layers": lambda d: encode_video(
        d / "hevc_layers.mp4",
        40,
        codec="libx265",
        b_frames=4,
        options={"x265-params": "temporal-layers=3:b-pyramid=1:b-adapt=0"},
    ),
    "hevc_ten_bit": lambda d: encode_video(
        d / "hevc_ten_bit.mkv", 30, codec="libx265", pix_fmt="yuv420p10le"
    ),
    "vp8": lambda d: encode_video(d / "vp8.webm", 30, codec="libvpx"),
    "vp9": lambda d: encode_video(d / "vp9.webm", 40, codec="libvpx-vp9"),
    "av1": lambda d: encode_video(d / "av1.mkv", 30, codec="libsvtav1"),
    "av1_pyramid": lambda d: encode_video(
        d / "av1_pyramid.mp4", 70, gop=64, codec="libsvtav1", options={"preset": "8"}
    ),
    "mpeg4": lambda d: encode_video(d / "mpeg4.avi", 40, codec="mpeg4"),
    "mpeg4_mp4": lambda d: encode_video(d / "mpeg4_mp4.mp4", 40, codec="mpeg4"),
    "mpeg4_no_key_table": lambda d: without_key_table(
        encode_video(d / "whole.mp4", 40, codec="mpeg4"), d / "mpeg4_no_key_table.mp4"
    ),
    "mpeg2": lambda d: encode_video(d / "mpeg2.mpg", 40, codec="mpeg2video"),
    "mjpeg": lambda d: encode_video(d / "mjpeg.avi", 12, codec="mjpeg", pix_fmt="yuvj420p"),
    "ffv1": lambda d: encode_video(d / "ffv1.mkv", 12, codec="ffv1"),
    "truncated_ts": lambda d: cut_short(
        encode_video(d / "whole.ts", 60), d / "truncated_ts.ts", 0.63
    ),
    "truncated_mkv": lambda d: cut_short(
        encode_video(d / "whole.mkv", 60), d / "truncated_mkv.mkv", 0.58
    ),
    "truncated_mp4": lambda d: cut_short(
        encode_video(d / "front.mp4", 60, container_options={"movflags": "faststart"}),
        d / "truncated_mp4.mp4",
        0.7,
    ),
}


def make_odd(name: str, folder: Path) -> Path:
    """Write the odd video `name` of ODD_VIDEOS into `folder` and return its path."""
    return ODD_VIDEOS[name](folder)
