"""Folders of numbered images, each a video: `--frames-fps` says at which rate."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

from marey.pipeline.data.layouts.file_search import listed_files
from marey.pipeline.data.listing import Listed
from marey.pipeline.runtime.address import FrameFolder
from marey.pipeline.runtime.storage import is_remote, local_path, split

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def list_frame_folders(source: str, fps: float) -> Iterator[Listed]:
    """One video a folder that holds images, by its path within the source."""
    folders: dict[str, str] = {}
    sizes: dict[str, int] = defaultdict(int)
    for name, location in listed_files(source, SUFFIXES):
        home = PurePosixPath(name).parent.as_posix()
        folders[home] = split(location)[0]
        if not is_remote(location):
            sizes[home] += os.path.getsize(location)
    for home, location in folders.items():
        name = local_path(source).absolute().name if home == "." else home
        yield Listed(name, FrameFolder(location, fps).uri, sizes[home])
