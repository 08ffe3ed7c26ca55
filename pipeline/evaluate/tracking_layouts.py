"""Where are the sequences of a tracking benchmark, and what do their files say?

| layout | images | boxes |
|---|---|---|
| OTB | `NAME/img/0001.jpg` | `NAME/groundtruth_rect.txt` (or `.1.txt`, `.2.txt`), from 1 |
| LaSOT | `[CLASS/]NAME/img/00000001.jpg` | `groundtruth.txt`, from 1; `full_occlusion.txt` |
| GOT-10k | `NAME/00000001.jpg` | `groundtruth.txt`, from 1; `absence.label` |
| VOT | `NAME/color/00000001.jpg` or `NAME/*.jpg` | `groundtruth.txt`, polygons or boxes, from 0 |

A row of four numbers is a box x, y, w, h; of six or more, a polygon x1, y1, x2, y2, ..., whose
bounding box is taken. An empty or NaN row, and an empty box, mean that the truth is unknown there.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from marey.configs.errors import InputError
from marey.pipeline.data.encoded_picture import decode_picture
from marey.pipeline.runtime.storage import is_companion

IMAGES = (".jpg", ".jpeg", ".png", ".bmp")
FIRST_FRAME = {"David": 300}
"""First frames that OTB leaves out (sequence name -> number of the first frame used)."""


@dataclass(frozen=True, slots=True)
class Recording:
    """frames: uint8 [T, H, W, 3] RGB; truth: float32 [T, 4] xywh, 0-based, NaN where unknown.
    attributes: what makes the sequence hard, where its files say so (`SV`, `FM`, ...). visible:
    float32 [T], the share of the target that is seen, where its files say so."""

    name: str
    frames: NDArray[np.uint8]
    truth: NDArray[np.float32]
    attributes: tuple[str, ...] = ()
    visible: NDArray[np.float32] | None = None


def truth_files(root: Path | str) -> list[Path]:
    """The files with true boxes of all sequences at or below `root`, sorted; one per target."""
    folder = Path(root)
    below = ("", "*/", "*/*/")
    found: list[Path] = []
    for depth in below:
        found += folder.glob(f"{depth}groundtruth_rect*.txt")
        found += folder.glob(f"{depth}groundtruth.txt")
    if not found:
        raise InputError(
            f"{root}: no groundtruth_rect.txt (OTB) or groundtruth.txt (GOT-10k, LaSOT, VOT) in "
            "it, in its folders or in theirs"
        )
    return sorted(found)


def read_sequence(file: Path) -> Recording:
    """Reads the sequence that a file with true boxes is of; boxes become 0-based.

    Where an OTB folder holds several targets (`groundtruth_rect.1.txt`, ...), each is a sequence,
    named as the benchmark does (Jogging-1). Raises InputError, naming file and line, for what is no
    such sequence.
    """
    folder = file.parent
    truth, polygons = _read_boxes(file)
    images, where = _images(folder)
    vot = file.name == "groundtruth.txt" and (where == "color" or polygons)
    truth[:, :2] -= 0.0 if vot else 1.0  # VOT alone counts pixels from 0
    if folder.name in FIRST_FRAME and file.name.startswith("groundtruth_rect"):
        images = images[FIRST_FRAME[folder.name] - 1 :]
    count = min(len(images), len(truth))
    truth = truth[:count]
    _forget_unseen(folder, truth)
    known = int(known_boxes(truth).sum())
    if known == 0:
        raise InputError(f"{file}: no image in {folder / where} has a box")
    if known == 1:
        raise InputError(
            f"{file}: one of {len(images)} images has a box; one is where a tracker starts, and "
            "another is needed to score it (test sets keep theirs: take the validation set)"
        )
    frames = [_read_image(path) for path in images[:count]]
    shapes = {frame.shape for frame in frames}
    if len(shapes) > 1:
        raise InputError(f"{folder / where}: images of different sizes: {sorted(shapes)}")
    target = file.stem.removeprefix("groundtruth_rect").removeprefix("groundtruth")
    return Recording(
        folder.name + target.replace(".", "-"),
        np.stack(frames),
        truth,
        _attributes(folder, file),
        _visible(folder, count),
    )


def known_boxes(truth: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which of the boxes [T, 4] xywh are known, bool [T]: neither NaN nor empty."""
    return np.asarray(np.isfinite(truth).all(axis=1) & (truth[:, 2:] > 0).all(axis=1), dtype=bool)


def _read_boxes(file: Path) -> tuple[NDArray[np.float32], bool]:
    """float32 [T, 4] xywh as written, NaN where unknown; and whether they are polygons' bounds."""
    rows: list[list[float]] = []
    polygons = False
    lines = file.read_text(encoding="utf-8-sig").rstrip().splitlines()
    for number, line in enumerate(lines, start=1):
        words = re.split(r"[,;\s]+", line.strip(" ,;\t"))
        if words == [""]:  # keeps its place: the rows after it belong to the frames after it
            rows.append([np.nan] * 4)
            continue
        try:
            values = [float(word) for word in words]
        except ValueError as error:
            raise InputError(f"{file}, line {number}: {line!r} is not made of numbers") from error
        if len(values) == 4:
            rows.append(values)
        elif len(values) >= 6 and len(values) % 2 == 0:
            polygons = True
            x, y = values[::2], values[1::2]
            rows.append([min(x), min(y), max(x) - min(x), max(y) - min(y)])
        else:
            raise InputError(
                f"{file}, line {number}: {len(values)} numbers; four numbers a line (x, y, w, h) "
                "or the corners of a polygon (x1, y1, x2, y2, ...) are read"
            )
    return np.array(rows, dtype=np.float32).reshape(-1, 4), polygons


def _images(folder: Path) -> tuple[list[Path], str]:
    """A sequence's images in the order of their numbers, and the folder they are in."""
    for where in ("img", "color", ""):
        inside = folder / where
        if inside.is_dir():
            found = [
                path
                for path in inside.iterdir()
                if path.suffix.lower() in IMAGES and not is_companion(path.name)
            ]
            if found:
                return sorted(found, key=_number), where
    raise InputError(f"{folder}: no images ({', '.join(IMAGES)}) in img/, color/ or beside the box")


def _number(path: Path) -> tuple[int, str]:
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else -1, path.stem)


def _read_image(path: Path) -> NDArray[np.uint8]:
    try:
        image = decode_picture(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as an image ({error})") from error
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _forget_unseen(folder: Path, truth: NDArray[np.float32]) -> None:
    """Frames in which the target is out of view have no box (LaSOT, GOT-10k)."""
    for name in ("out_of_view.txt", "absence.label"):
        flags = _flags(folder / name, len(truth))
        if flags is not None:
            truth[flags > 0] = np.nan


def _visible(folder: Path, count: int) -> NDArray[np.float32] | None:
    path = folder / "visible.txt"
    flags = _flags(path, count)
    if flags is not None:
        return flags.astype(np.float32)
    hidden = _flags(folder / "full_occlusion.txt", count)
    if hidden is not None:
        return 1.0 - hidden.astype(np.float32)
    cover = _flags(folder / "cover.label", count)  # GOT-10k: eighths of the target that are seen
    return None if cover is None else (cover / 8.0).astype(np.float32)


def _flags(path: Path, count: int) -> NDArray[np.float64] | None:
    if not path.is_file():
        return None
    words = re.split(r"[,\s]+", path.read_text(encoding="utf-8-sig").strip())
    try:
        values = np.array([float(word) for word in words])
    except ValueError as error:
        raise InputError(f"{path}: one number per frame expected") from error
    if len(values) < count:
        raise InputError(f"{path}: {len(values)} numbers for {count} frames")
    return values[:count]


def _attributes(folder: Path, file: Path) -> tuple[str, ...]:
    """Names in `attributes.txt` (or OTB's `attrs.txt`); none where there is no such file."""
    for name in (f"{file.stem}.attributes.txt", "attributes.txt", "attrs.txt"):
        path = folder / name
        if path.is_file():
            words = re.split(r"[,\s]+", path.read_text(encoding="utf-8-sig").strip())
            return tuple(word for word in words if word)
    return ()
