"""How is one part of the embeddings made from its frames, and written?"""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from marey.pipeline.embedding.baselines import open_encoder
from marey.pipeline.embedding.frame_parts import part_name
from marey.pipeline.embedding.read_part import from_one_row
from marey.pipeline.runtime.seal import sealed
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.graph import Rows

BATCH = 128
"""Rows of a forward pass, at most."""
CPU_PIXELS = 16 * 224 * 224
"""Pixels of a forward pass on a CPU: its caches hold what follows from them (ResNet-18 at 224 px:
33 images per CPU second by 8 or 16 images, 26 by 128)."""


def counts_row(number: int, rows: int, reasons: str, why_open: str = "") -> Rows:
    """What the last stage says of a part; reasons: refusals and their counts, as JSON."""
    values = {"part": number, "rows": rows, "reasons": reasons, "open": why_open}
    return {name: np.array([value]) for name, value in values.items()}


def embed_part_at(encoder_run: str, out: str, schema: pa.Schema) -> EmbedPart:
    """The step with an encoder that is opened here, in an actor."""
    return EmbedPart(open_encoder(encoder_run)[0], out, schema)


class EmbedPart:
    """The second step of embedding: a part's frames in, its file written, its counts out."""

    def __init__(self, encoder: Any, out: str, schema: pa.Schema) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder = encoder.to(self.device)
        self.out = Folder(out)
        self.schema = schema

    @torch.inference_mode()
    def embed(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [n, (T,) H, W, 3] -> float32 [n, D]; independent of the batch that a row is in."""
        batch = BATCH
        if self.device.type == "cpu":
            batch = max(1, min(BATCH, CPU_PIXELS // math.prod(frames.shape[1:-1])))
        vectors = [
            self.encoder(
                self.encoder.preprocess(torch.from_numpy(frames[n : n + batch]).to(self.device))
            )
            for n in range(0, len(frames), batch)
        ]
        return torch.cat(vectors).float().cpu().numpy()

    def __call__(self, row: Rows) -> Iterator[Rows]:
        """Embed and write the one part of a row; its `rows` [1], `reasons` (JSON) [1], `open` [1].

        A part with a frame that could not be read for now is left open: not written.
        """
        columns = from_one_row(row)
        number = int(columns["part"][0])
        if why := str(columns["open"][0]):
            yield counts_row(number, 0, "{}", why)
            return
        good = columns["refused"] == ""
        table = pa.table(
            [
                self._vectors(columns["frames"][good], column.type)
                if column.name == "embedding"
                else pa.array(columns[column.name][good].tolist(), column.type)
                for column in self.schema
            ],
            self.schema,
        )
        reasons = Counter(
            f"{video}: {reason}"
            for video, reason in zip(columns["video_id"], columns["refused"], strict=True)
            if reason
        )
        counts = {"rows": str(len(table)), "refused": json.dumps(dict(reasons))}
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(counts), buffer, compression="zstd")
        # under a temporary name, then renamed
        self.out.write(part_name(number), sealed(buffer.getvalue()))
        yield counts_row(number, len(table), counts["refused"])

    def _vectors(self, frames: np.ndarray, kind: pa.DataType) -> pa.Array:
        vectors = self.embed(frames) if len(frames) else np.empty((0, kind.list_size), np.float32)
        flat = vectors.ravel().astype(kind.value_type.to_pandas_dtype())
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)
