"""Embeddings as a folder for TensorBoard's projector: vectors, labels and a sheet of pictures."""

from __future__ import annotations

import cv2
import numpy as np

from marey.configs.errors import UsageError
from marey.pipeline.embedding.embeddings import Embeddings, load_embeddings
from marey.pipeline.report.thumbnails import sheet, source_of
from marey.pipeline.runtime.storage import Folder

USAGE = "tensorboard --logdir {out}"
"""The command that opens the folder."""
MOST = 10_000
"""Frames that the projector shows well; of more, as many are drawn evenly."""
_SHEET = 8_192
"""Longest side in pixels of the sheet of pictures that the projector takes."""


def export_projector(
    location: str, out: str, *, data: str | None = None, thumbnail: int = 64
) -> int:
    """Write `vectors.bytes`, `metadata.tsv`, `sprite.png` and their description; returns how many.

    Of more than `MOST` frames so many are drawn evenly. thumbnail: side of the square pictures in
    pixels, less where the sheet would be larger than the projector takes; 0 for none.
    Raises UsageError for a folder that holds other things.
    """
    folder = Folder(out)
    others = set(folder.names()) - {"vectors.bytes", "metadata.tsv", "sprite.png", _CONFIG}
    if others:
        raise UsageError(
            f"-o {out} holds other things ({', '.join(sorted(others)[:3])}): give a new folder"
        )
    embeddings = load_embeddings(location)
    if len(embeddings) > MOST:
        chosen = np.sort(np.random.default_rng(0).permutation(len(embeddings))[:MOST])
        embeddings = embeddings.take(chosen)
    count, width = embeddings.features.shape
    lines = [
        "embeddings {",
        f'  tensor_name: "frames" tensor_shape: [{count}, {width}]',
        '  tensor_path: "vectors.bytes" metadata_path: "metadata.tsv"',
    ]
    if thumbnail:
        across = int(np.ceil(np.sqrt(count)))
        side = max(8, min(thumbnail, _SHEET // across))
        image = sheet(embeddings, source_of(embeddings, data), across, side)
        folder.write("sprite.png", cv2.imencode(".png", image[..., ::-1])[1].tobytes())
        lines.append(f'  sprite {{ image_path: "sprite.png" single_image_dim: [{side}, {side}] }}')
    folder.write("vectors.bytes", embeddings.features.astype("<f4").tobytes())
    folder.write("metadata.tsv", _metadata(embeddings).encode())
    folder.write(_CONFIG, "\n".join([*lines, "}", ""]).encode())
    return count


_CONFIG = "projector_config.pbtxt"


def _metadata(embeddings: Embeddings) -> str:
    """A line a frame, tabs between the columns."""
    names = ["video_id", "event", "view", "frame", "time_s"]
    columns = [getattr(embeddings, name) for name in names]
    if embeddings.label is not None:
        names.append("label")
        columns.append(["" if label is None else label for label in embeddings.label])
    lines = ["\t".join(names)]
    for row in zip(*columns, strict=True):
        lines.append("\t".join(" ".join(str(value).split()) for value in row))
    return "\n".join(lines) + "\n"
