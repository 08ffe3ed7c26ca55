"""Frame embeddings of a whole corpus to partitioned Parquet: every frame once, resumable."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from marey.configs.errors import InputError, UsageError
from marey.pipeline.data.source import Reopened, need_frames, open_source
from marey.pipeline.embedding.baselines import encoder_location, open_encoder
from marey.pipeline.embedding.embed_part import EmbedPart, embed_part_at
from marey.pipeline.embedding.folder_meta import (
    FORMAT,
    meta_name,
    read_meta,
    write_meta,
)
from marey.pipeline.embedding.frame_parts import PART_FRAMES, FrameParts, PartSupply, part_name
from marey.pipeline.embedding.read_part import ReadPart, columns_of
from marey.pipeline.runtime.claims import claimed
from marey.pipeline.runtime.part_notes import damaged_parts, part_notes
from marey.pipeline.runtime.status_file import report
from marey.pipeline.runtime.storage import Folder, absolute
from marey.pipeline.stream.graph import Engine, Stage
from marey.pipeline.stream.part_runs import run_parts
from marey.pipeline.stream.resources import Needs


@dataclass(frozen=True, slots=True)
class Embedded:
    """What an embedding run gave."""

    frames: int
    refused: dict[str, int]
    made: bool = True
    """Whether there was anything to do: a finished folder of the same work is left as it is."""


def embed(
    encoder_run: str,
    data: str,
    out: str,
    *,
    rate: float = 1.0,
    dtype: Literal["float32", "float16"] = "float32",
    copies: int = 0,
    engine: Engine = "ray",
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Embedded:
    """Embed every video of an index (or every image of a table) at `rate` frames/s (0: all).

    Writes `out/parts/*.parquet` (video_id, uri, event, view, frame, time_s: when it is first shown,
    in the event's clock; label where the source has them; embedding) and last `out/_meta.parquet`,
    which has no rows: all files of `out` are read as one table. With `copies`, that many strongly
    changed copies of each frame (column `copy`) are embedded in its place: the queries of copy
    retrieval. An encoder of clips is given, for each time, the clip that ends there (see
    `sampling.lookback`); times in shots too short for a clip are refused. `encoder_run` is a run
    folder or a baseline (see `evaluate.baselines`). `progress` is told how many frames of how many
    are done. Parts that a killed run left are kept; with `overwrite`, those of other work are
    removed, and finished work is done again. Raises UsageError for a negative rate or number
    of copies, or when `out` belongs to other work (another encoder, rate, corpus), InputError when
    nothing can be embedded.
    """
    if not rate >= 0:
        raise UsageError(f"--fps {rate}: a positive number is needed, or 0 for every frame")
    if copies < 0:
        raise UsageError(f"--copies {copies}: a positive number is needed, or 0 for none")
    encoder_run, data, out = encoder_location(encoder_run), absolute(data), absolute(out)
    source = open_source(data)
    need_frames(source)
    source.check_present()
    encoder, about = open_encoder(encoder_run)
    architecture = about["architecture"]
    clip = (architecture.get("clip_frames", 1), architecture.get("clip_step_s", 0.0))
    if clip[0] > 1 and source.stills:
        raise InputError(
            f"{encoder_run} embeds clips of {clip[0]} frames, and {data} holds single images: give "
            "an index of videos"
        )
    size = max(1, PART_FRAMES // (clip[0] * max(1, copies)))
    todo = FrameParts(source, rate, size)
    if not len(todo):
        raise InputError(f"{data} has no frame to embed: no video of it is readable")
    folder = Folder(out)
    key = {
        "encoder": encoder_run, "encoder_sha256": about["sha256"], "data": data,
        "data_digest": source.digest, "fps": rate, "dtype": dtype, "dim": about["out_dim"],
        "copies": copies, "format": FORMAT,
    }  # fmt: skip
    columns = columns_of(source, copies, encoder.out_dim, dtype)
    side = architecture["image_size"]
    # here the encoder that is open serves; a billion weights are not sent to actors, which open it
    here = partial(EmbedPart, encoder, out, columns)
    # 0. Supply: one process opens the corpus, and gives every part the rows of its videos.
    supply = Stage(partial(PartSupply, Reopened(source), rate, size))
    stages = [
        # 1. Read: decoding is work for CPUs, so an actor for each that the encoders leave.
        Stage(partial(ReadPart, source.reader, rate, (side, side), copies, clip)),
        # 2. Embed and write: one encoder fills a GPU; without GPUs one may use a whole machine.
        Stage(
            here if engine == "local" else partial(embed_part_at, encoder_run, out, columns),
            Needs(one_a_gpu=True),
        ),
    ]
    before = read_meta(folder)
    same = before and all(before.get(name) == value for name, value in key.items())
    if before and same and not overwrite:
        names = [f"parts/{name}" for name in folder.names("parts", ".parquet")]
        if not damaged_parts(folder, names):
            return Embedded(int(before["frames"]), dict(before["refused"]), made=False)
    with claimed(
        folder, key, things="embeddings", finished=meta_name(folder), said=before,
        overwrite=overwrite,
    ):  # fmt: skip
        present = set(folder.names("parts"))
        is_there = [part_name(n).partition("/")[2] in present for n in range(len(todo))]
        left = [n for n, there in enumerate(is_there) if not there]
        times = max(1, copies)
        total = times * todo.frames
        frames, done = 0, total - times * sum(map(todo.frames_of, left))
        empty = source.without_frames()
        refused = Counter(f"{v.video_id}: {v.status}, without a frame" for v in empty)
        for note in part_notes(folder, [part_name(n) for n, there in enumerate(is_there) if there]):
            frames += int(note[b"rows"])
            refused.update(json.loads(note[b"refused"]))
        report(done=done, total=total, unit="frames", seen=done, refused=dict(refused))
        progress(done, total)
        for counts in run_parts(left, lambda numbers: numbers, stages, engine, supply):
            for rows, reasons in zip(counts["rows"], counts["reasons"], strict=True):
                frames += int(rows)
                without = json.loads(reasons)
                refused.update(without)
                done += int(rows) + sum(without.values())
                report(done=done, seen=done, refused=dict(refused))
                progress(done, total)
        meta = {**key, "kind": source.kind, "frames": frames, "parts": len(todo),
                "refused": dict(refused), "preprocessing": about["preprocessing"]}  # fmt: skip
        write_meta(folder, meta, columns)
    return Embedded(frames, dict(refused))
