"""What `--data` may be: an index of videos, shards, a table of images, or a folder of images."""

from __future__ import annotations

from marey.configs.errors import InputError
from marey.pipeline.data.images import ImageFolder, Images, ImageTable, has_images, is_image_table
from marey.pipeline.data.index import Index
from marey.pipeline.data.shards import MANIFEST, UNFINISHED
from marey.pipeline.data.stored_samples import StoredSamples
from marey.pipeline.runtime.storage import Folder, is_remote, local_path

Source = Index | Images | StoredSamples


def open_source(location: str) -> Source:
    """Open whatever stands at a location. Raises InputError saying what it could be."""
    folder = Folder(location)
    if not location.endswith(".parquet") and (folder.exists(MANIFEST) or folder.exists(UNFINISHED)):
        return StoredSamples(location)
    if not is_remote(location):
        path = local_path(location)
        if path.is_dir():
            if has_images(path):
                return ImageFolder(location)
            raise InputError(
                f"{location} is a folder without images; for videos, first run "
                f"`marey index {location} -o index.parquet` and give that file"
            )
        if not path.is_file():
            raise InputError(f"no such file or folder: {location}")
    return ImageTable(location) if is_image_table(location) else Index.load(location)
