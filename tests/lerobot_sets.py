"""LeRobot data sets as their own writer lays them out, from any videos. (A set that the package
itself wrote has the same files and columns; its statistics and sensor tables are left out here.)"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CAMERAS = ("observation.images.top", "observation.images.wrist")
VIDEO_V2 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
VIDEO_V3 = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


def _info(root: Path, version: str, fps: int, cameras: Sequence[str], episodes: int) -> dict:
    (root / "meta").mkdir(parents=True, exist_ok=True)
    return {
        "codebase_version": version, "robot_type": "arm", "total_episodes": episodes, "fps": fps,
        "chunks_size": 1000, "splits": {"train": f"0:{episodes}"},
        "features": {
            **{camera: {"dtype": "video", "shape": [48, 64, 3]} for camera in cameras},
            "observation.state": {"dtype": "float32", "shape": [2]},
        },
    }  # fmt: skip


def write_v2(
    root: Path,
    lengths: Sequence[int],
    *,
    fps: int,
    cameras: Sequence[str] = CAMERAS,
    tasks: Sequence[str] = ("pick the cup",),
    splits: dict[str, str] | None = None,
) -> dict[tuple[int, str], Path]:
    """The `meta` of a version 2.1 set; returns where each episode's video of a camera belongs."""
    info = _info(root, "v2.1", fps, cameras, len(lengths))
    info |= {"video_path": VIDEO_V2, "splits": splits or info["splits"]}
    (root / "meta" / "info.json").write_text(json.dumps(info))
    lines = [
        {"episode_index": n, "tasks": [tasks[n % len(tasks)]], "length": length}
        for n, length in enumerate(lengths)
    ]
    (root / "meta" / "episodes.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    places = {}
    for n in range(len(lengths)):
        for camera in cameras:
            path = root / VIDEO_V2.format(episode_chunk=0, video_key=camera, episode_index=n)
            path.parent.mkdir(parents=True, exist_ok=True)
            places[n, camera] = path
    return places


def write_v3(
    root: Path,
    episodes: Sequence[dict],
    *,
    fps: int,
    cameras: Sequence[str] = CAMERAS,
) -> None:
    """The `meta` of a version 3.0 set.

    episodes: for each `length`, `tasks`, and for each camera (file_index, from, to) in seconds.
    """
    info = _info(root, "v3.0", fps, cameras, len(episodes)) | {"video_path": VIDEO_V3}
    (root / "meta" / "info.json").write_text(json.dumps(info))
    columns: dict[str, list] = {"episode_index": list(range(len(episodes)))}
    for name in ("length", "tasks"):
        columns[name] = [episode[name] for episode in episodes]
    for camera in cameras:
        for place, field in enumerate(("file_index", "from_timestamp", "to_timestamp")):
            columns[f"videos/{camera}/{field}"] = [episode[camera][place] for episode in episodes]
        columns[f"videos/{camera}/chunk_index"] = [0] * len(episodes)
    folder = root / "meta" / "episodes" / "chunk-000"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "file-000.parquet")
