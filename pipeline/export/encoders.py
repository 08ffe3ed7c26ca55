"""An encoder as a program that runs without marey: `torch.export`, or ONNX."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marey.configs.errors import InputError, MareyError
from marey.models.encoders.encoder import Encoder
from marey.pipeline.embedding.baselines import encoder_location, open_encoder
from marey.pipeline.export.whole_encoder import WholeEncoder
from marey.pipeline.runtime.storage import Folder, split

TOLERANCE = 1e-4
"""Largest difference between what marey and the written file compute, as a share of the largest
value that marey computes (or of 1, where that is less)."""
_EXAMPLE, _CHECKS = (2, 48, 64), ((1, 48, 64), (3, 75, 50), (2, 240, 321))
"""Frames, height and width: of the example that is followed, and of those that are tried."""


@dataclass(frozen=True, slots=True)
class ExportedEncoder:
    """What was written, and how it was found to be right."""

    usage: str
    """Python that runs it, without marey."""
    difference: float
    """Largest difference from marey's own vectors, see `TOLERANCE`."""
    remark: str = ""


def opened(location: str) -> tuple[Encoder, dict[str, Any]]:
    """The encoder of a run, or a timm model by name, and what is known of it.

    Raises InputError for a baseline that is no network.
    """
    encoder, about = open_encoder(encoder_location(location))
    if not isinstance(encoder, Encoder):
        raise InputError(f"{location} is no network: give a run folder or timm:NAME")
    return encoder, about


def export_torch(location: str, out: str) -> ExportedEncoder:
    """Write a `torch.export` program (`.pt2`), and run what was written.

    Raises InputError when it cannot be exported, or computes something else.
    """
    encoder, _ = opened(location)
    buffer = io.BytesIO()
    torch.export.save(_program(encoder), buffer)
    program = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    difference = compared(encoder, lambda frames: program(frames))
    _write(out, buffer.getvalue())
    name = split(out)[1]
    return ExportedEncoder(
        f'encoder = torch.export.load("{name}").module()\n'
        f"vectors = encoder(frames)  # torch.uint8 {_shape(encoder)} RGB -> [N, {encoder.out_dim}]",
        difference,
    )


def export_onnx(location: str, out: str) -> ExportedEncoder:
    """Write an ONNX model, and run what was written in ONNX Runtime.

    Raises InputError when it cannot be exported, or computes something else; MareyError naming the
    extra where the packages are absent.
    """
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MareyError(
            f"ONNX needs the package {error.name}: pip install 'marey[export]'"
        ) from error
    encoder, _ = opened(location)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "encoder.onnx"
        torch.onnx.export(
            _program(encoder), f=path, dynamo=True, verbose=False, external_data=False,
            input_names=["frames"], output_names=["vectors"],
        )  # fmt: skip
        content = path.read_bytes()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    difference = compared(
        encoder,
        lambda frames: torch.from_numpy(session.run(None, {"frames": frames.numpy()})[0]),
    )
    _write(out, content)
    name = split(out)[1]
    return ExportedEncoder(
        f'session = onnxruntime.InferenceSession("{name}")\n'
        f'vectors = session.run(None, {{"frames": frames}})[0]'
        f"  # np.uint8 {_shape(encoder)} RGB -> [N, {encoder.out_dim}]",
        difference,
    )


def compared(encoder: Encoder, other: Any, what: str = "the exported file") -> float:
    """How far `other` is from the encoder on frames of several sizes, numbers of frames and looks.

    other: uint8 [N, H, W, 3] (of clips [N, T, H, W, 3]) -> float32 [N, D].
    Raises InputError where that is more than `TOLERANCE`.
    """
    rng = np.random.default_rng(0)
    most = 0.0
    for count, height, width in _CHECKS:
        frames = _frames(encoder, count, height, width, rng)
        with torch.no_grad():
            expected, found = encoder(encoder.preprocess(frames)), other(frames)
        scale = max(1.0, float(expected.abs().max()))
        most = max(most, float((expected - found).abs().max()) / scale)
    if not most <= TOLERANCE:
        raise InputError(
            f"{what} computes other vectors than the encoder (largest difference {most:.2g}, "
            f"allowed {TOLERANCE:g}): nothing was written"
        )
    return most


def _frames(
    encoder: Encoder, count: int, height: int, width: int, rng: np.random.Generator
) -> Tensor:
    clip = encoder.config.clip_frames
    shape = (count, height, width, 3) if clip == 1 else (count, clip, height, width, 3)
    return torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))


def _program(encoder: Encoder) -> torch.export.ExportedProgram:
    """Any number of frames of any size. Raises InputError where the network cannot be followed."""
    frames = _frames(encoder, *_EXAMPLE, np.random.default_rng(0))
    free = torch.export.Dim.DYNAMIC
    first = frames.ndim - 3
    dynamic = {0: free, first: free, first + 1: free}
    try:
        with _quiet():
            return torch.export.export(
                WholeEncoder(encoder).eval(), (frames,), dynamic_shapes=(dynamic,), strict=False
            )
    except Exception as error:  # what a network does that cannot be followed has many kinds
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"backbone {encoder.config.backbone}: torch.export cannot follow it: {reason}"
        ) from error


def _shape(encoder: Encoder) -> str:
    clip = encoder.config.clip_frames
    return "[N, H, W, 3]" if clip == 1 else f"[N, {clip}, H, W, 3]"


def _write(out: str, content: bytes) -> None:
    folder, name = split(out)
    Folder(folder).write(name, content)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of themselves."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
