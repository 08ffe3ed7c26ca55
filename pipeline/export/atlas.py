"""Embeddings as one Parquet file for Embedding Atlas: map, neighbours and pictures."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from marey.pipeline.embedding.embeddings import Embeddings, load_embeddings
from marey.pipeline.evaluate.nearest_moments import Moments
from marey.pipeline.report.projection import project
from marey.pipeline.report.thumbnails import source_of, thumbnails
from marey.pipeline.runtime.storage import Folder, split

USAGE = "embedding-atlas {out} --x x --y y --neighbors neighbors --image image"
"""The command that opens the file."""
_NEIGHBOURS = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))])
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def export_atlas(
    location: str,
    out: str,
    *,
    data: str | None = None,
    neighbours: int = 10,
    thumbnail: int = 96,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write the frames of a folder of embeddings to one Parquet file; returns how many.

    Columns: those of the embeddings but the vectors; `x`, `y` (see `projection`); `neighbors`, the
    best moments of as many other videos, by row number and cosine distance; `image`, a JPEG whose
    longer side has `thumbnail` pixels (0: none). data: what was embedded, where it has moved.
    Raises InputError where that is gone.
    """
    embeddings = load_embeddings(location)
    source = source_of(embeddings, data) if thumbnail else None
    points, _ = project(embeddings.features)
    moments = Moments(embeddings)
    total = len(embeddings)
    if source is None:
        chunks = ((np.arange(n, min(total, n + 1024)), []) for n in range(0, total, 1024))
    else:
        chunks = thumbnails(embeddings, source, thumbnail)
    buffer = io.BytesIO()
    writer: pq.ParquetWriter | None = None
    for rows, pictures in chunks:
        table = _keys(embeddings, rows)
        table = table.append_column("x", pa.array(points[rows, 0], pa.float32()))
        table = table.append_column("y", pa.array(points[rows, 1], pa.float32()))
        if neighbours:
            found, cosine = moments.nearest(moments.unit[rows], moments.video[rows], neighbours)
            near = [
                {"ids": ids, "distances": distances}
                for ids, distances in zip(found.tolist(), (1 - cosine).tolist(), strict=True)
            ]
            table = table.append_column("neighbors", pa.array(near, _NEIGHBOURS))
        if pictures:
            images = [None if one is None else {"bytes": one, "path": None} for one in pictures]
            table = table.append_column("image", pa.array(images, _IMAGE))
        writer = writer or pq.ParquetWriter(buffer, table.schema, compression="zstd")
        writer.write_table(table)
        progress(int(rows[-1]) + 1, total)
    if writer is not None:
        writer.close()
    folder, name = split(out)
    Folder(folder).write(name, buffer.getvalue())
    return total


def _keys(embeddings: Embeddings, rows: np.ndarray) -> pa.Table:
    """What is known of the rows beside their vectors."""
    columns = {
        "video_id": pa.array(embeddings.video_id[rows], pa.string()),
        "event": pa.array(embeddings.event[rows], pa.string()),
        "view": pa.array(embeddings.view[rows], pa.string()),
        "frame": pa.array(embeddings.frame[rows]),
        "time_s": pa.array(embeddings.time_s[rows]),
    }
    if embeddings.uri is not None:
        columns["uri"] = pa.array(embeddings.uri[rows], pa.string())
    if embeddings.label is not None:
        texts = [None if label is None else str(label) for label in embeddings.label[rows]]
        columns["label"] = pa.array(texts, pa.string())
    return pa.table(columns)
