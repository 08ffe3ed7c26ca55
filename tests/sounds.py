"""Videos with sound for tests: one happening as cameras with clocks of their own record it."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 16_000


def happening(seconds: float, seed: int = 0) -> np.ndarray:
    """Sound like speech: noise in bursts, float64 [n] at 16 kHz."""
    rng = np.random.default_rng(seed)
    count = int(seconds * RATE)
    loudness = rng.uniform(0, 0.25, int(seconds * 4) + 2) ** 2 * 8
    return rng.normal(size=count) * np.interp(np.arange(count) / RATE * 4, np.arange(len(loudness)),
                                              loudness)  # fmt: skip


def recorded(
    sound: np.ndarray, seconds: float, *, offset_s: float, rate: float = 1.0, seed: int = 1
) -> np.ndarray:
    """What a camera hears in whose clock the happening's time t is `rate * t + offset_s`."""
    own_s = np.arange(int(seconds * RATE)) / RATE
    heard = np.interp((own_s - offset_s) / rate * RATE, np.arange(len(sound)), sound, 0, 0)
    return 0.5 * heard + 0.02 * np.random.default_rng(seed).normal(size=len(own_s))


def encode_with_sound(
    path: Path,
    sound: np.ndarray | None,
    *,
    seconds: float,
    fps: int = 5,
    late_s: float = 0.0,
    codec: str = "aac",
    draw: Callable[[int], np.ndarray] | None = None,
) -> Path:
    """A video whose pictures begin `late_s` after its sound in the file.

    sound: float [n] at 16 kHz from the first picture on (what is before it is silent), or None.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, fps)
        video.codec_context.options = {"preset": "ultrafast", "threads": "1", "bf": "0"}
        audio = None
        if sound is not None:
            audio = container.add_stream(codec, rate=48_000, layout="mono")
        for number in range(int(seconds * fps)):
            rgb = draw(number) if draw else np.full((48, 64, 3), 90 + number % 7, np.uint8)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = number + round(late_s * fps), Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and sound is not None:
            whole = np.concatenate([np.zeros(int(late_s * RATE)), sound])
            frame = av.AudioFrame.from_ndarray(
                (np.clip(whole, -1, 1) * 32_000).astype(np.int16)[None], format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            resampler = av.AudioResampler(
                format=audio.codec_context.format, layout="mono", rate=48_000,
                frame_size=audio.codec_context.frame_size or 1024,
            )  # fmt: skip
            for piece in (*resampler.resample(frame), *resampler.resample(None)):
                container.mux(audio.encode(piece))
            container.mux(audio.encode(None))
    return path
