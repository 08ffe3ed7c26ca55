"""Still images as a corpus: a folder of image files, or a Parquet table with encoded images.

An image is an event of one frame, so that every image-level method trains from images and from
the frames of videos alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from marey.configs.errors import InputError
from marey.pipeline.data.encoded_picture import decode_picture
from marey.pipeline.data.events import Event, Video
from marey.pipeline.data.index import relative_name
from marey.pipeline.data.reading import Frames, Lack, Reader, Wanted, no_frames
from marey.pipeline.data.row_groups import RowGroups
from marey.pipeline.runtime.range_file import RangeFile
from marey.pipeline.runtime.roots import Roots, declared
from marey.pipeline.runtime.storage import as_utf8, is_companion, is_remote, local_path

SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"])
NO_LABEL = (None, "", -1)
"""Values of a column `label` that say nothing; NaN is another."""
_NO_MOTION = np.empty(0, dtype=np.float32)


class Images:
    """Pictures as a source, one an event: opened as an `ImageFolder` or an `ImageTable`.

    names: of the pictures, in order. reader: reads them by the `uri` that `uri(number)` gives.
    """

    kind = "image"
    stills = True
    sample_kind = None

    def __init__(self, names: Sequence[str], location: str, encoded: Encoded) -> None:
        self.names = names
        self.location = location
        self._encoded = encoded

    @property
    def reader(self) -> Reader:
        """Decodes pictures; holds none of the names."""
        return ImageReader(self._encoded)

    def __len__(self) -> int:
        return len(self.names)

    def uri(self, number: int) -> str:
        """What the reader knows the picture at a position by: its number, if nothing else."""
        return str(number)

    def event(self, number: int) -> Event:
        """The picture at a position, as an event of one one-frame video."""
        name = self.names[number]
        return Event(name, (still(name, self.uri(number)),))

    @property
    def digest(self) -> str:
        """A short hash of the names in order."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return hashlib.blake2b("\n".join(self.names).encode(), digest_size=8).hexdigest()

    def check_present(self) -> None:
        """They are there: a table holds its pictures, those of a folder were just listed."""

    def video(self, place: int) -> Video:
        """The still of the event at a position."""
        return self.event(place).videos[0]

    def durations_s(self) -> np.ndarray:
        """Stills have no duration: zeros."""
        return np.zeros(len(self))

    def without_frames(self) -> Iterator[Video]:
        """None: which pictures are broken is known when they are decoded."""
        return iter(())

    def encoded(self, number: int) -> bytes:
        """The encoded bytes of one picture. Raises OSError or ValueError where there are none."""
        return self._encoded(self.uri(number))

    def labels(self) -> list[int] | None:
        """Class numbers from 0, -1 for a picture without one; None for a source without labels."""
        return None

    @property
    def labelled(self) -> bool:
        """Whether images have labels, of classes or of any other kind."""
        return False

    def label_of(self, number: int) -> Any:
        """The label of an image as its source has it; None where there is none."""
        return None


Encoded = Callable[[str], bytes]
"""The file content of a picture, by its uri; picklable, and small when pickled."""


class ImageReader:
    """Decodes pictures by the `uri` of their rows."""

    def __init__(self, encoded: Encoded) -> None:
        self._encoded = encoded

    def read(
        self,
        wanted: Sequence[Wanted],
        shape: tuple[int, int],
        *,
        suspected: bool = False,
        backend: str = "pyav",
    ) -> Frames:
        """See `Reader.read`; a still shows the same at any time."""
        out = no_frames(wanted, shape)
        uris = [one.event.videos[0].uri for one in wanted]
        # numbers in ascending order: a table is read row group by row group
        for number in sorted(range(len(uris)), key=lambda n: (len(uris[n]), uris[n])):
            out.shown_s[number] = wanted[number].times_s
            try:
                out.frames[number] = decode_image(self._encoded(uris[number]), shape)
            except (OSError, ValueError) as error:
                out.lacks[number] = Lack(0, str(error))
        return out


class ImageFolder(Images):
    """Image files of a folder, to any depth, by relative name."""

    def __init__(self, location: str) -> None:
        root = local_path(location)
        paths = sorted(path for path in _image_paths(root) if path.is_file())
        if not paths:
            raise InputError(
                f"{location} holds no image (looked for {' '.join(sorted(SUFFIXES))}, any depth)"
            )
        self._files = [relative_name(path, root) for path in paths]
        names = [as_utf8(file) for file in self._files]
        roots = Roots.of(declared() or [location])
        super().__init__(names, location, partial(_file_content, root, roots))

    def uri(self, number: int) -> str:
        """The file's name within the folder, as the file system has it."""
        return self._files[number]


def _file_content(root: Path, roots: Roots, name: str) -> bytes:
    """Raises OSError, and ValueError for a link that leads out of the roots."""
    try:
        roots.check(str(root / name))
    except InputError as error:
        raise ValueError(str(error)) from error
    return (root / name).read_bytes()


class ImageTable(Images):
    """A Parquet table with a column of encoded images, read row group by row group.

    Columns: `image` (binary, or a struct with `bytes`), optionally `name` (string) and `label` (of
    classes: whole numbers or text; other kinds count as no label). Names and labels are held; of
    the images only the row groups read last (see `marey.pipeline.data.row_groups`), so small row
    groups make small readers.
    """

    def __init__(self, location: str) -> None:
        self._images = RowGroups(location, "image")
        columns = set(self._images.schema.names)
        if "name" in columns:
            names = Names(self._images.column("name"))
        else:
            names = Names(pa.array([f"{row:09d}" for row in range(self._images.num_rows)]))
        self._label = self._images.column("label") if "label" in columns else None
        super().__init__(names, location, TableContent(self._images))

    def labels(self) -> list[int] | None:
        """Numbers of the classes in the column `label`; None without one."""
        return self._numbered[0]

    @property
    def labelled(self) -> bool:
        """Whether there is a column `label`."""
        return self._label is not None

    def label_of(self, number: int) -> Any:
        """The value of the column `label`; None for those that say nothing."""
        value = None if self._label is None else self._label[number].as_py()
        return None if value in NO_LABEL or value != value else value

    @property
    def classes(self) -> list[int | str]:
        """The values of the column `label` that the numbers stand for."""
        return self._numbered[1]

    @cached_property
    def _numbered(self) -> tuple[list[int] | None, list[int | str]]:
        # only where somebody asks: most methods train without labels, whatever the column holds
        return (None, []) if self._label is None else class_numbers(self._label)


class TableContent:
    """The encoded picture of a row, by the row's number; opened anew where it is unpickled."""

    def __init__(self, images: RowGroups) -> None:
        self._images = images

    def __call__(self, uri: str) -> bytes:
        """Raises ValueError for a row without a picture."""
        content = self._images.value(int(uri))
        if content is None:
            raise ValueError("the row holds no image")
        return content


class Names(Sequence[str]):
    """Names as they lie in an Arrow column: a quarter of the memory of a list of `str`."""

    def __init__(self, column: pa.Array | pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, place):  # type: ignore[override]
        return str(self._column[place].as_py())


def class_numbers(column: pa.ChunkedArray) -> tuple[list[int] | None, list[int | str]]:
    """Class numbers from 0, -1 for a row without a class, and the values that they stand for.

    Whole numbers from 0 that leave few of the numbers up to the largest unused are class numbers as
    they are; others (identifiers) and text are numbered in order. Null, NaN, empty text and -1
    are no class. None for a column of anything else, such as regression targets.
    """
    kind = column.type
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if not numeric and not pa.types.is_string(kind) and not pa.types.is_large_string(kind):
        return None, []
    values = [
        None if value in NO_LABEL or value != value else value for value in column.to_pylist()
    ]
    if numeric:
        if any(value is not None and value % 1 != 0 for value in values):  # infinities too
            return None, []
        values = [None if value is None else int(value) for value in values]
    found = sorted({value for value in values if value is not None})
    dense = numeric and found and found[0] >= 0 and found[-1] < max(len(values), 2 * len(found))
    classes: list[int | str] = [*range(found[-1] + 1)] if dense else [*found]
    number = {value: place for place, value in enumerate(classes)}
    return [-1 if value is None else number[value] for value in values], classes


def still(name: str, uri: str) -> Video:
    """A row for what has one frame and no file of its own."""
    return Video(
        video_id=name, uri=uri, event=name, view="0", label="", clock_offset_s=0.0, clock_rate=1.0,
        duration_s=1.0, fps=1.0, frames=1, width=0, height=0, stream=0, motion=_NO_MOTION,
        motion_hz=0.0, cuts=(), status="ok",
    )  # fmt: skip


def is_image_table(location: str) -> bool:
    """Whether a Parquet file holds images (an index holds none)."""
    if not location.endswith(".parquet"):
        return False
    try:
        file = RangeFile(location) if is_remote(location) else local_path(location)
        return "image" in pq.read_schema(file).names
    except (OSError, pa.ArrowInvalid, InputError):
        return False


def has_images(folder: Path) -> bool:
    """Whether a folder holds image files."""
    return any(True for _ in _image_paths(folder))


def _image_paths(folder: Path) -> Iterator[Path]:
    """What is called as image files are, to any depth."""
    for path in folder.rglob("*"):
        if path.suffix.lower() in SUFFIXES and not is_companion(path.name):
            yield path


def decode_image(encoded: bytes, shape: tuple[int, int]) -> np.ndarray:
    """Decode one image: uint8 [H, W, 3] RGB, scaled to cover `shape`, centre crop.

    Raises ValueError, saying why, for what is no image or is too large.
    """
    return cover(cv2.cvtColor(decode_picture(encoded), cv2.COLOR_BGR2RGB), shape)


def cover(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Scale uint8 [h, w, 3] to cover (H, W) and cut the centre: uint8 [H, W, 3]."""
    height, width = image.shape[:2]
    scale = max(shape[0] / height, shape[1] / width)
    if scale != 1:
        size = (max(shape[1], round(width * scale)), max(shape[0], round(height * scale)))
        image = cv2.resize(
            image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )
    top = (image.shape[0] - shape[0]) // 2
    left = (image.shape[1] - shape[1]) // 2
    return np.ascontiguousarray(image[top : top + shape[0], left : left + shape[1]])
