"""LeRobot data sets: an event is an episode, a view is a camera, the label is the task in words.

Version 2 has one file an episode and camera; version 3 has many episodes in one file, and each
camera's own times of each. All is known from `meta/`; which frames a file really has is found when
it is probed. The layout is that of github.com/huggingface/lerobot (src/lerobot/datasets).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from marey.configs.errors import InputError
from marey.pipeline.data.layouts.archive_members import open_archive
from marey.pipeline.data.layouts.file_search import listed_files
from marey.pipeline.data.listing import Listed, register_listing
from marey.pipeline.runtime.storage import Folder, absolute

INFO = "meta/info.json"
EARLY = 0.25
"""Share of a frame by which a span's bounds come before those of the table: a frame belongs to the
span in which it begins, and the table's times are rounded."""


def is_lerobot(source: str) -> bool:
    """Whether a folder is a LeRobot data set."""
    try:
        return "codebase_version" in _info(Folder(absolute(source)))
    except (InputError, OSError):
        return False


def list_episodes(source: str) -> Iterator[Listed]:
    """The videos of all episodes, by `episode_000000/CAMERA`. Raises InputError for a bad set."""
    folder = Folder(absolute(source))
    info = _info(folder)
    cameras = [key for key, about in info["features"].items() if about.get("dtype") == "video"]
    if not cameras:
        raise InputError(
            f"{source}: its cameras are not stored as videos (features of dtype `video`); convert "
            "it with lerobot's tools first"
        )
    version = str(info["codebase_version"]).lstrip("v")
    read = {"2": _version_2, "3": _version_3}.get(version.partition(".")[0])
    if read is None:
        raise InputError(f"{source}: codebase_version {version} is not known; 2.x and 3.x are")
    splits = _splits(info)
    for episode, camera, about in read(folder, info, cameras):
        number = int(episode["episode_index"])
        name = f"episode_{number:06d}"
        tasks = episode.get("tasks") or []
        extra = {"episode_index": number, "length": int(episode["length"]), "tasks": list(tasks)}
        yield Listed(
            video_id=f"{name}/{camera}", event=name, view=camera, label="; ".join(tasks),
            split=next((key for key, span in splits.items() if number in span), ""),
            extra=extra, **about,
        )  # fmt: skip


Row = tuple[dict[str, Any], str, dict[str, Any]]
"""An episode, a camera, and where its video is."""


def _version_2(folder: Folder, info: dict[str, Any], cameras: list[str]) -> Iterator[Row]:
    for line in folder.read("meta/episodes.jsonl").splitlines():
        if not line.strip():
            continue
        episode = json.loads(line)
        number = int(episode["episode_index"])
        for camera in cameras:
            path = info["video_path"].format(
                episode_chunk=number // int(info["chunks_size"]),
                episode_index=number,
                video_key=camera,
            )
            yield episode, camera, {"uri": folder.join(path), "bytes": folder.size(path)}


def _version_3(folder: Folder, info: dict[str, Any], cameras: list[str]) -> Iterator[Row]:
    fields = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    early = EARLY / float(info["fps"])
    for _, location in listed_files(folder.join("meta/episodes"), (".parquet",)):
        with open_archive(location) as file:
            columns = ["episode_index", "length", "tasks"]
            columns += [f"videos/{camera}/{field}" for camera in cameras for field in fields]
            table = pq.read_table(file, columns=columns)
        for batch in table.to_batches(1000):
            for episode in batch.to_pylist():
                for camera in cameras:
                    at = {field: episode[f"videos/{camera}/{field}"] for field in fields}
                    path = info["video_path"].format(video_key=camera, **at)
                    start_s = max(0.0, at["from_timestamp"] - early)
                    end_s = at["to_timestamp"] - early
                    where = {"uri": folder.join(path), "start_s": start_s, "end_s": end_s}
                    yield episode, camera, where


def _info(folder: Folder) -> dict[str, Any]:
    if not folder.exists(INFO):
        raise InputError(f"{folder.join(INFO)}: no such file")
    try:
        info = json.loads(folder.read(INFO))
    except ValueError as error:
        raise InputError(f"{folder.join(INFO)}: is no JSON ({error})") from error
    return info if isinstance(info, dict) else {}


def _splits(info: dict[str, Any]) -> dict[str, range]:
    """The episodes of each split, as `train: 0:50` says them."""
    spans = {}
    for name, text in (info.get("splits") or {}).items():
        first, _, last = str(text).partition(":")
        if first.isdecimal() and last.isdecimal():
            spans[name] = range(int(first), int(last))
    return spans


register_listing("lerobot", is_lerobot, list_episodes)
