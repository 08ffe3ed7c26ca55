"""Frame embeddings of a whole corpus, through Ray, to partitioned Parquet: once each, resumable."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from marey.configs.errors import InputError, UsageError
from marey.pipeline.data.images import Images, decode_image
from marey.pipeline.data.index import Index, Video
from marey.pipeline.data.source import open_source
from marey.pipeline.data.stored_samples import StoredSamples
from marey.pipeline.embedding.baselines import encoder_location, open_encoder
from marey.pipeline.embedding.copies import strong_copy
from marey.pipeline.runtime.claims import claimed
from marey.pipeline.runtime.cores import default_workers, set_threads
from marey.pipeline.runtime.engine import Suspicion, actor_retries, gpu_count, ray_session
from marey.pipeline.runtime.part_notes import part_notes
from marey.pipeline.runtime.storage import Folder, absolute
from marey.pipeline.sampling.lookback import clip_times
from marey.pipeline.sampling.shown import unlike_plan
from marey.pipeline.stream.graph import MAX_BLOCKS, ahead, budget
from marey.pipeline.video import Clip, FrameRequest
from marey.pipeline.video.isolate import read_into

PART_FRAMES = 1024
"""Frames that one part file holds at most."""
META = "meta.json"
"""Written last: a folder without it is unfinished."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the result: frames [start, stop) of each of a few videos (or images)."""

    number: int
    pieces: tuple[tuple[int, int, int, int], ...]
    """(event, view, first frame, stop frame) at the chosen rate."""

    @property
    def name(self) -> str:
        """File name of the finished part."""
        return f"parts/part-{self.number:06d}.parquet"


def frame_numbers(video: Video, rate: float) -> np.ndarray:
    """The frames at which a video is embedded: int64, ascending, each once.

    rate: frames per second, 0 for every frame. At a constant rate, evenly spaced frames, at most
    all; else the frames that are shown at 0, 1 / rate, 2 / rate, ...
    """
    if rate <= 0:
        return np.arange(video.frames)
    if video.frame_times is not None:
        steps = np.arange(max(1, math.ceil(video.duration_s * rate - 1e-6))) / rate
        return np.unique(video.frame_times.numbers_at(steps))
    wanted = min(rate, video.fps)
    count = max(1, math.floor(video.frames / video.fps * wanted + 1e-6))
    numbers = np.floor(np.arange(count) * video.fps / wanted + 1e-6)
    return np.minimum(numbers, video.frames - 1).astype(np.int64)


def parts(source: Index | Images, rate: float, size: int = PART_FRAMES) -> Iterator[Part]:
    """Cut a corpus into parts of at most `size` frames, in the source's order."""
    pieces: list[tuple[int, int, int, int]] = []
    room, number = size, 0
    for event in range(len(source)):
        for view, video in enumerate(source.event(event).videos):
            if not video.has_frames:
                continue
            start, count = 0, len(frame_numbers(video, rate))
            while start < count:
                stop = min(count, start + room)
                pieces.append((event, view, start, stop))
                room -= stop - start
                start = stop
                if room == 0:
                    yield Part(number, tuple(pieces))
                    pieces, room, number = [], size, number + 1
    if pieces:
        yield Part(number, tuple(pieces))


def without_frames(source: Index | Images) -> Counter[str]:
    """The videos of an index that are in no part, as reasons: nothing of them can be embedded."""
    if isinstance(source, Images):
        return Counter()
    empty = ~((source.column("frames") > 0) & (source.column("fps") > 0))
    videos = (source.video(int(place)) for place in np.flatnonzero(empty))
    return Counter(f"{video.video_id}: {video.status}, without a frame" for video in videos)


@dataclass
class ReadPart:
    """A part in, its frames out: columns of one length, with the frames that could be read."""

    source: Index | Images
    rate: float
    shape: tuple[int, int]
    copies: int = 0
    """Strongly changed copies of each frame to give in its place; 0 gives the frame itself."""
    clip: tuple[int, float] = (1, 0.0)
    """Frames that an embedding sees, and the seconds between them (see `clip_times`)."""
    suspicious: bool = False
    """Read each video in a process of its own: one of them may have killed this one before."""

    def __call__(self, part: Part) -> dict[str, np.ndarray]:
        """Rows `frames` uint8 [n, H, W, 3] (of clips [n, T, H, W, 3]) and their keys.

        `refused` rows keep their keys.
        """
        columns: dict[str, list[Any]] = {name: [] for name in _KEYS}
        images: list[np.ndarray] = []
        for event_number, view, start, stop in part.pieces:
            event = self.source.event(event_number)
            video = event.videos[view]
            numbers = frame_numbers(video, self.rate)[start:stop]
            times_s = video.frame_clock.middles(numbers)
            frames, refused = self._read(event_number, view, times_s)
            images.append(frames)
            count = len(times_s)
            columns["video_id"] += [video.video_id] * count
            columns["event"] += [video.event] * count
            columns["view"] += [video.view] * count
            columns["frame"] += numbers.tolist()
            columns["time_s"] += video.event_time(times_s).tolist()
            if self.source.labelled:
                columns["label"] += [self.source.label_of(event_number)] * count
            columns["refused"] += refused
        columns["part"] = [part.number] * len(columns["frame"])
        rows = {name: np.array(v) for name, v in columns.items() if v} | {
            "frames": np.concatenate(images)
        }
        return self._changed(rows) if self.copies else rows

    def _changed(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every row `copies` times, its frames changed by draws that its own key decides."""
        count = len(rows["frames"])
        rows = {name: np.repeat(values, self.copies, axis=0) for name, values in rows.items()}
        rows["copy"] = np.tile(np.arange(self.copies), count)
        for n, row in enumerate(rows["frames"]):
            key = f"{rows['video_id'][n]} {rows['frame'][n]} {rows['copy'][n]}"
            # one change for all frames of a clip
            for frame in row.reshape(-1, *row.shape[-3:]):
                frame[:] = strong_copy(frame, key)
        return rows

    def _read(self, event: int, view: int, times_s: np.ndarray) -> tuple[np.ndarray, list[str]]:
        length, step_s = self.clip
        lengths = (length,) if length > 1 else ()
        frames = np.zeros((len(times_s), *lengths, *self.shape, 3), dtype=np.uint8)
        if isinstance(self.source, Images):
            refused = [""] * len(times_s)
            try:
                frames[0] = decode_image(self.source.encoded(event), self.shape)
            except (OSError, ValueError) as error:
                refused[0] = str(error)
            return frames, refused
        video = self.source.event(event).videos[view]
        wanted_s, refused = clip_times(video, times_s, length, step_s)
        # one request a row: a damaged frame costs only those that see it
        requests = [FrameRequest(n, wanted_s[n]) for n in range(len(times_s)) if not refused[n]]

        def place(clip: Clip) -> None:
            number: Any = clip.request_id
            frames[number] = clip.frames if lengths else clip.frames[0]
            refused[number] = unlike_plan(wanted_s[number], clip.shown_s, video.fps, length)

        failures, error = read_into(
            place,
            video.uri,
            requests,
            self.shape,
            suspected=self.suspicious,
            stream=video.stream,
            fit="cover",
            sound=video.status == "ok",
        )
        for number, reason in failures.items():
            refused[number] = error or reason  # type: ignore[index]
        return frames, refused


_COLUMNS = {
    "video_id": pa.string(),
    "event": pa.string(),
    "view": pa.string(),
    "frame": pa.int64(),
    "time_s": pa.float64(),
    "label": None,  # as the source has them; a part without any fits all
    "copy": pa.int64(),
}
_KEYS = (*_COLUMNS, "refused")


class EmbedPart:
    """A part's frames in, its Parquet file written, its counts out."""

    def __init__(self, encoder_run: str, out: str, dtype: str) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        encoder, _ = open_encoder(encoder_run)
        self.encoder = encoder.to(self.device)
        self.out = Folder(out)
        self.dtype = np.dtype(dtype)

    @torch.inference_mode()
    def embed(self, frames: np.ndarray, batch: int = 128) -> np.ndarray:
        """uint8 [n, (T,) H, W, 3] -> [n, D]; independent of the batch that a row is in."""
        vectors = [
            self.encoder(
                self.encoder.preprocess(torch.from_numpy(frames[n : n + batch]).to(self.device))
            )
            for n in range(0, len(frames), batch)
        ]
        return torch.cat(vectors).float().cpu().numpy().astype(self.dtype)

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Embed and write one part: under a temporary name, then renamed."""
        number = int(rows["part"][0])
        good = rows["refused"] == ""
        table = pa.table(
            {
                name: pa.array(rows[name][good].tolist(), kind)
                for name, kind in _COLUMNS.items()
                if name in rows
            }
            | {"embedding": self._vectors(rows["frames"][good])}
        )
        reasons = Counter(
            f"{video}: {reason}"
            for video, reason in zip(rows["video_id"], rows["refused"], strict=True)
            if reason
        )
        about = {"rows": str(len(table)), "refused": json.dumps(dict(reasons))}
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(about), buffer, compression="zstd")
        self.out.write(Part(number, ()).name, buffer.getvalue())
        return {
            "part": np.array([number]),
            "rows": np.array([len(table)]),
            "refused": np.array([json.dumps(dict(reasons))]),
        }

    def _vectors(self, frames: np.ndarray) -> pa.Array:
        width = self.encoder.out_dim
        vectors = self.embed(frames) if len(frames) else np.empty((0, width), self.dtype)
        return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)


@dataclass(frozen=True, slots=True)
class Embedded:
    """What an embedding run gave."""

    frames: int
    refused: dict[str, int]


def embed(
    encoder_run: str,
    data: str,
    out: str,
    *,
    rate: float = 1.0,
    dtype: Literal["float32", "float16"] = "float32",
    copies: int = 0,
    engine: Literal["ray", "local"] = "ray",
    progress: Callable[[int, int, int], None] = lambda done, total, frames: None,
) -> Embedded:
    """Embed every video of an index (or every image of a table) at `rate` frames/s (0: all).

    Writes `out/parts/*.parquet` (video_id, event, view, frame, time_s in the event's clock, label
    where the source has them, embedding) and last `out/meta.json`. With `copies`, that many
    strongly changed copies of each frame (column `copy`) are embedded in its place: the queries of
    copy retrieval. An encoder of clips is given, for each time, the clip that ends there (see
    `sampling.lookback`); times in shots too short for a clip are refused. `encoder_run` is a run
    folder or a baseline (see `evaluate.baselines`). Parts that a killed run left are kept. Raises
    UsageError for a negative rate or number of copies, or when `out` is finished already or belongs
    to another encoder, InputError when nothing can be embedded.
    """
    if not rate >= 0:
        raise UsageError(f"--fps {rate}: a positive number is needed, or 0 for every frame")
    if copies < 0:
        raise UsageError(f"--copies {copies}: a positive number is needed, or 0 for none")
    encoder_run, data, out = encoder_location(encoder_run), absolute(data), absolute(out)
    source = open_source(data)
    if isinstance(source, StoredSamples):
        raise InputError(f"{data} holds shards: embed the index that they were mined from")
    source.check_present()
    _, about = open_encoder(encoder_run)
    architecture = about["architecture"]
    clip = (architecture.get("clip_frames", 1), architecture.get("clip_step_s", 0.0))
    if clip[0] > 1 and isinstance(source, Images):
        raise InputError(
            f"{encoder_run} embeds clips of {clip[0]} frames, and {data} holds single images: give "
            "an index of videos"
        )
    todo = list(parts(source, rate, max(1, PART_FRAMES // (clip[0] * max(1, copies)))))
    if not todo:
        raise InputError(f"{data} has no frame to embed: no video of it is readable")
    folder = Folder(out)
    key = {
        "encoder": encoder_run, "encoder_sha256": about["sha256"], "data": data,
        "data_digest": source.digest, "fps": rate, "dtype": dtype, "dim": about["out_dim"],
        "copies": copies,
    }  # fmt: skip
    size = architecture["image_size"]
    read = ReadPart(source, rate, (size, size), copies, clip)
    run = _run_here if engine == "local" else _run_on_ray
    with claimed(folder, key, things="embeddings", finished=META):
        present = {f"parts/{name}" for name in folder.names("parts")}
        left = [part for part in todo if part.name not in present]
        frames, ready = 0, len(todo) - len(left)
        refused = without_frames(source)
        for rows, reasons in _counts(folder, [part for part in todo if part.name in present]):
            frames += rows
            refused.update(reasons)
        progress(ready, len(todo), frames)
        for rows, reasons in run(left, read, data, encoder_run, out, dtype):
            frames += rows
            ready += 1
            refused.update(reasons)
            progress(ready, len(todo), frames)
        meta = {**key, "format": 1, "kind": source.kind, "frames": frames, "parts": len(todo),
                "refused": dict(refused), "preprocessing": about["preprocessing"]}  # fmt: skip
        folder.write(META, json.dumps(meta, indent=1).encode())
    return Embedded(frames, dict(refused))


Counts = Iterator[tuple[int, dict[str, int]]]
"""Rows of each part, and how often each reason refused one."""


def _counts(folder: Folder, done: list[Part]) -> Counts:
    """What finished parts say about themselves."""
    for about in part_notes(folder, [part.name for part in done]):
        yield int(about[b"rows"]), json.loads(about[b"refused"])


def _run_here(
    left: list[Part], read: ReadPart, data: str, encoder_run: str, out: str, dtype: str
) -> Counts:
    write = EmbedPart(encoder_run, out, dtype)
    for rows in ahead(lambda part: [read(part)], left, default_workers()):
        counts = write(rows)
        yield int(counts["rows"][0]), json.loads(str(counts["refused"][0]))


class RayRead:
    """`ReadPart` as a Ray Data actor; parts travel as JSON, what was read of one as one row.

    A row is never divided or joined with another, so that a part reaches the encoder as it is.
    """

    def __init__(
        self,
        data: str,
        rate: float,
        shape: tuple[int, int],
        copies: int = 0,
        clip: tuple[int, float] = (1, 0.0),
    ) -> None:
        source = open_source(data)
        assert not isinstance(source, StoredSamples)  # refused before any actor starts
        self._read = ReadPart(source, rate, shape, copies, clip)
        self._suspicion = Suspicion()

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._read.suspicious = self._suspicion.next()
        number, pieces = json.loads(str(rows["part"][0]))
        read = self._read(Part(number, tuple(tuple(piece) for piece in pieces)))
        frames = read.pop("frames")
        keys = json.dumps({name: values.tolist() for name, values in read.items()})
        return {"frames": frames[None], "keys": np.array([keys])}


class RayEmbed(EmbedPart):
    """`EmbedPart` as a Ray Data actor, for the rows of `RayRead`."""

    def __init__(self, encoder_run: str, out: str, dtype: str) -> None:
        if not torch.cuda.is_available():
            # Ray allows one thread to a logical CPU; the only encoder may use the machine
            set_threads(default_workers())
        super().__init__(encoder_run, out, dtype)

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Embed and write the one part of a batch."""
        keys = json.loads(str(rows["keys"][0]))
        columns = {name: np.array(values) for name, values in keys.items()}
        return super().__call__(columns | {"frames": rows["frames"][0]})


def _run_on_ray(
    left: list[Part], read: ReadPart, data: str, encoder_run: str, out: str, dtype: str
) -> Counts:
    if not left:
        return
    with ray_session() as cpus:
        import ray.data

        gpus = gpu_count()
        share = budget(cpus, max(1, gpus))
        # one part a block, so in turns: Ray Data keeps state for every block
        for start in range(0, len(left), MAX_BLOCKS):
            turn = left[start : start + MAX_BLOCKS]
            blocks = [pa.table({"part": [json.dumps([p.number, p.pieces])]}) for p in turn]
            dataset = ray.data.from_blocks(blocks).map_batches(
                RayRead,
                fn_constructor_args=(data, read.rate, read.shape, read.copies, read.clip),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=share.actors),
                num_cpus=share.actor_cpus,
                ray_remote_args_fn=actor_retries,
            ).map_batches(
                RayEmbed,
                fn_constructor_args=(encoder_run, out, dtype),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=max(1, gpus)),
                num_cpus=share.trainer_cpus,
                num_gpus=1 if gpus else 0,
                ray_remote_args_fn=actor_retries,
            )  # fmt: skip
            # as one split, so that Ray runs the graph, and writes its log, in an actor of its own
            (rows,) = dataset.streaming_split(1, equal=False)
            for row in rows.iter_rows():
                yield int(row["rows"]), json.loads(row["refused"])
