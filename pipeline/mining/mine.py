"""How is a corpus mined into shards? Its units of work become parts, each written once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from marey.configs.errors import InputError, UsageError
from marey.configs.mining import SamplesMining, TracksMining
from marey.pipeline.data.shards import MANIFEST, Shards, finish, parts_left
from marey.pipeline.data.source import Reopened, Source, open_source
from marey.pipeline.mining.sample_part import SamplePart, SampleSupply
from marey.pipeline.mining.track_part import TrackPart, TrackSupply
from marey.pipeline.mining.tracks import TrackUnits
from marey.pipeline.runtime.claims import claimed
from marey.pipeline.runtime.part_notes import damaged_parts
from marey.pipeline.runtime.status_file import report
from marey.pipeline.runtime.storage import Folder, absolute
from marey.pipeline.stream.decode import settings_of
from marey.pipeline.stream.graph import Engine, Stage
from marey.pipeline.stream.part_runs import run_parts
from marey.pipeline.stream.plan import Unit, make_plan
from marey.pipeline.stream.resources import Needs
from marey.pipeline.video.backends import check_backend, decodes_on_gpu


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to mine: parts by number, and who supplies and who makes them."""

    parts: int
    units: Callable[[list[int]], Iterator[Any]]
    """The keys of the units of work of parts with these ascending numbers."""
    supply: Stage
    stage: Stage
    refused: dict[str, int]
    """Reasons of what is in no part."""


def _of_tracks(source: Source, out: str, settings: TracksMining) -> Work:
    if source.stills:
        raise InputError(
            f"{source.location} holds no videos: tracks are mined from an index of videos"
        )
    units = TrackUnits(source, settings)

    # One process opens the corpus, and gives every unit its row.
    supply = Stage(partial(TrackSupply, Reopened(source), settings))
    gpus_for = "" if settings.device == "cpu" else f"device={settings.device}"
    # The one stage decodes, tracks and writes: an actor for each CPU that is left, or where the
    # tracker is to run on GPUs an even part of those.
    stage = Stage(partial(TrackPart, out, settings), Needs(gpus_for=gpus_for))
    refused = {"video: no_frames": units.refused} if units.refused else {}
    return Work(len(units), iter, supply, stage, refused)


def _of_samples(source: Source, out: str, settings: SamplesMining) -> Work:
    check_backend(settings.data.backend)
    plan = make_plan(source, settings.sampling, seed=settings.seed, epochs=settings.epochs)

    def chosen(numbers: list[int]) -> Iterator[tuple[int, Unit]]:
        wanted = set(numbers)
        return (key for key in enumerate(plan.units()) if key[0] in wanted)

    backend = settings.data.backend
    gpus_for = f"data.backend={backend}" if decodes_on_gpu(backend) else ""
    # One process opens the corpus, and gives every unit the rows of its events.
    supply = Stage(partial(SampleSupply, plan.for_others(), Reopened(source)))
    make = partial(SamplePart, out, settings.image, *settings_of(plan, source, settings.data))
    # The one stage decodes and writes: an actor for each CPU that is left, or where videos are
    # decoded on GPUs an even part of those.
    stage = Stage(make, Needs(gpus_for=gpus_for))
    refused = {f"event: {reason}": count for reason, count in plan.refused_by_name().items()}
    return Work(sum(1 for _ in plan.units()), chosen, supply, stage, refused)


def mine_corpus(
    data: str,
    out: str,
    settings: TracksMining | SamplesMining,
    *,
    engine: Engine = "ray",
    overwrite: bool = False,
    progress: Callable[[int, int, int], None] = lambda done, total, rows: None,
) -> dict[str, Any]:
    """Mine an index (or images) into shards; returns the manifest.

    engine: parts are made by Ray Data actors, or in threads of this process; they are the same.
    A folder with an unfinished run of the same work is finished: parts that exist, and are whole,
    are kept; with `overwrite`, shards of any other work are made anew. Raises UsageError if `out`
    holds anything else, InputError if nothing can be mined,
    UnfinishedError where some parts could not be made for now.
    """
    data, out = absolute(data), absolute(out)
    source = open_source(data)
    source.check_present()
    key = _key(source, data, settings)
    if isinstance(settings, TracksMining):
        work = _of_tracks(source, out, settings)
    else:
        work = _of_samples(source, out, settings)
    if not work.parts:
        raise InputError(f"{data} has no readable video")
    folder = Folder(out)
    with claimed(folder, key, things="shards", finished=MANIFEST, overwrite=overwrite):
        left = parts_left(folder, work.parts)
        done, rows = work.parts - len(left), 0
        report(done=done, total=work.parts, unit="parts")
        progress(done, work.parts, rows)
        for counts in run_parts(left, work.units, [work.stage], engine, work.supply):
            done += len(counts["rows"])
            rows += int(counts["rows"].sum())
            report(done=done, samples=rows)
            progress(done, work.parts, rows)
        return finish(folder, key, work.parts, work.refused)


def mined_before(
    data: str, out: str, settings: TracksMining | SamplesMining
) -> dict[str, Any] | None:
    """The manifest of shards that `mine_corpus` with these arguments has finished; None if it has
    not, or if parts of them are damaged. Raises UsageError where `out` holds finished shards of
    other data or settings."""
    data, folder = absolute(data), Folder(absolute(out))
    if not folder.exists(MANIFEST) or _damaged(folder):
        return None
    manifest = Shards(folder.location).manifest
    key = json.loads(json.dumps(_key(open_source(data), data, settings)))
    if differing := sorted(name for name in key if manifest.get(name) != key[name]):
        raise UsageError(
            f"{out} holds shards that were mined with another {', '.join(differing)}; give the "
            "same data and settings of mining, another -o, or --overwrite to mine anew"
        )
    return manifest


def _damaged(folder: Folder) -> bool:
    return bool(damaged_parts(folder, [f"parts/{name}" for name in folder.names("parts")]))


def _key(source: Source, data: str, settings: TracksMining | SamplesMining) -> dict[str, Any]:
    """What shards are made of."""
    return {
        "kind": settings.kind, "data": data, "data_digest": source.digest,
        "settings": settings.model_dump(mode="json"),
    }  # fmt: skip
