"""What shards show: how much was mined, what was refused and why, how the samples look."""

from __future__ import annotations

from html import escape
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from marey.pipeline.data.shards import Shards, decode_images
from marey.pipeline.report.choose import spread
from marey.pipeline.report.page import Section, long_table, number, picture, tiles
from marey.pipeline.report.sample_strips import sample_strips
from marey.trackers.draw import best_median_worst

SHOWN = 8
"""Best, median and worst tracks that are shown, each."""
SAMPLES = 12
"""Stored samples of other kinds that are shown."""
RANKS = ("Best", "Median", "Worst")


def shard_sections(location: str) -> tuple[str, str, list[Section]]:
    """Title, subtitle and sections of finished shards."""
    shards = Shards(location)
    manifest = shards.manifest
    pictures = _tracks(shards) if shards.kind == "tracks" else _samples(shards)
    sections = [Section("Mined", _headline(shards)), *pictures]
    sections.append(Section("Kept and refused", _reasons(manifest["reasons"])))
    title = f"Shards: {PurePosixPath(location.rstrip('/')).name}"
    return title, f"{len(shards):,} samples of kind {shards.kind}", sections


def _headline(shards: Shards) -> str:
    reasons: dict[str, int] = shards.manifest["reasons"]
    tried = sum(count for reason, count in reasons.items() if reason.startswith("track: "))
    share = f"{len(shards) / tried:.0%} of {tried:,} candidates" if tried else ""
    parts = shards.manifest["parts"]
    values = [(f"{len(shards):,}", "samples", share), (f"{parts:,}", "parts", "one file each")]
    if shards.kind == "tracks" and len(shards):
        videos = shards.table(["video_id"]).column("video_id").to_pylist()
        values.append((f"{len(set(videos)):,}", "videos", "that gave a track"))
    return tiles(values)


def _tracks(shards: Shards) -> list[Section]:
    if not len(shards):
        return []
    light = shards.table(["video_id", "scores", "fb_iou", "image_times_s"]).to_pylist()
    quality = [float(row["fb_iou"]) * float(np.mean(row["scores"])) for row in light]
    chosen = best_median_worst(quality, SHOWN)
    groups = np.array_split(np.array(chosen), len(RANKS)) if len(chosen) >= len(RANKS) else [chosen]
    shown = []
    for rank, places in zip(RANKS, groups, strict=False):
        tracks = "".join(_track(shards.row(int(place))) for place in places)
        shown.append(f'<h3>{rank}</h3><div class="samples" style="--smallest:190px">{tracks}</div>')
    intro = (
        "Each pair of pictures is one thing at the start and the end of its track. Ordered by the "
        "overlap after tracking backward times the mean score."
    )
    return [Section("Tracks", "".join(shown), intro)]


def _track(row: dict[str, Any]) -> str:
    """The stored patches of a track, when each was seen, and what spoke for the track."""
    patches = decode_images(row["images"])
    cells = "".join(
        f"<div>{picture(patch, row['video_id'])}{time_s:.1f} s</div>"
        for patch, time_s in zip(patches, row["image_times_s"], strict=True)
    )
    return (
        f"<div><p>{escape(PurePosixPath(row['video_id']).name)}: overlap {row['fb_iou']:.2f}, "
        f'score {np.mean(row["scores"]):.2f}</p><div class="strip">{cells}</div></div>'
    )


def _samples(shards: Shards) -> list[Section]:
    if not len(shards):
        return []
    rows = [shards.row(place) for place in spread(range(len(shards)), SAMPLES)]
    samples = {"frames": np.stack([decode_images(row["images"]) for row in rows])}
    for name in ("time_s", "view"):
        if name in rows[0]:
            samples[name] = np.array([row[name] for row in rows])
    numbers = [int(row["sample"]) for row in rows]
    body = sample_strips(samples, shards.kind, numbers)
    return [Section("Samples", body, "A few stored samples, evenly spread.")]


def _reasons(reasons: dict[str, int]) -> str:
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    rows = [(*reason.split(": ", 1), number(count)) for reason, count in ordered]
    return long_table(("stage", "reason", "count"), rows, "manifest.json")
