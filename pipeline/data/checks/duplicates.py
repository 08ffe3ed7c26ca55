"""Which videos are the same, byte for byte or to the eye, and are they in two splits?

To the eye: at the same shares of their length they differ by less than each of them changes over
time. That holds for copies in another codec, size or quality, and not for two episodes before one
background.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from marey.configs.errors import InputError
from marey.pipeline.data.checks.finding import Finding
from marey.pipeline.data.checks.glimpse import Glimpse
from marey.pipeline.data.checks.of_videos import EVEN
from marey.pipeline.data.events import Video
from marey.pipeline.runtime.address import byte_range, frame_folder
from marey.pipeline.runtime.storage import is_remote, local_path
from marey.pipeline.video.remote import open_stored

SAME_LENGTH = 0.03
"""Copies differ in length by less than this share."""
OWN_SHARE = 0.35
"""Copies differ by less than this share of what each of them changes over time."""
MOST_APART = 8.0
"""And by less than this at any moment: root mean square, of 255, of 16 x 16 grey pixels."""
HARDLY_APART = 0.4
"""Videos in which nothing changes are copies below this."""
BLOCK = 512
"""Videos that are compared with all others at once."""
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
"""Folders that name a split, where the index does not."""


def same_bytes(videos: Sequence[Video], sizes: Sequence[int]) -> list[list[int]]:
    """Groups of videos, by their places, whose files are equal. sizes: of the files, in bytes."""
    by_size: dict[tuple, list[int]] = defaultdict(list)
    for place, (video, size) in enumerate(zip(videos, sizes, strict=True)):
        if size > 0 and not frame_folder(video.uri):
            span = (video.start_s, video.end_s) if video.span else None
            by_size[size, video.stream, span].append(place)
    groups = []
    for places in by_size.values():
        if len({videos[place].uri for place in places}) < 2:
            continue
        by_content: dict[bytes, list[int]] = defaultdict(list)
        for place in places:
            if content := _content(videos[place]):
                by_content[content].append(place)
        groups += [group for group in by_content.values() if len(group) > 1]
    return groups


def _content(video: Video) -> bytes:
    """A hash of a file's bytes; empty where it cannot, or may not, be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        uri = video.location()
        stored = byte_range(uri) or is_remote(uri)
        with open_stored(uri) if stored else open(local_path(uri), "rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
    except (InputError, OSError):
        return b""
    return digest.digest()


def same_pictures(videos: Sequence[Video], looks: Sequence[Glimpse | None]) -> list[list[int]]:
    """Groups of videos, by their places, that show the same."""
    places = [n for n, look in enumerate(looks) if tells(look)]
    places.sort(key=lambda n: videos[n].duration_s)
    if len(places) < 2:
        return []
    small = np.stack([looks[n].small for n in places]).astype(np.float32)  # type: ignore[union-attr]
    moments = small.shape[1]
    flat = small.reshape(len(places), moments, -1)
    length = np.array([videos[n].duration_s for n in places])
    own = np.minimum(_rms(flat[:, 0], flat[:, 1]), _rms(flat[:, 1], flat[:, 2]))
    home = list(range(len(places)))

    def root(n: int) -> int:
        while home[n] != n:
            n = home[n]
        return n

    ends = np.searchsorted(length, length * (1 + SAME_LENGTH), side="right")
    for start in range(0, len(places), BLOCK):
        stop = min(start + BLOCK, len(places))
        last = int(ends[stop - 1])
        apart = np.stack(
            [_between(flat[start:stop, m], flat[start:last, m]) for m in range(moments)]
        )
        within = np.minimum(own[start:stop, None], own[None, start:last])
        bound = np.clip(OWN_SHARE * within, HARDLY_APART, MOST_APART)
        for a, b in np.argwhere((apart <= bound).all(axis=0)):
            first, second = start + int(a), start + int(b)
            if first < second < ends[first]:
                home[root(second)] = root(first)
    groups: dict[int, list[int]] = defaultdict(list)
    for n in range(len(places)):
        groups[root(n)].append(places[n])
    return [sorted(group) for group in groups.values() if len(group) > 1]


def tells(look: Glimpse | None) -> bool:
    """Whether a video shows enough to be told from others."""
    return look is not None and look.small is not None and max(look.contrast) >= EVEN


def _rms(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.sqrt(((one - other) ** 2).mean(axis=-1))


def _between(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Root mean square difference of each of [n, D] to each of [m, D]: [n, m]."""
    squares = (some**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * some @ others.T
    return np.sqrt(np.maximum(squares, 0) / some.shape[1])


def faults_of_copies(
    videos: Sequence[Video], exact: Sequence[Sequence[int]], near: Sequence[Sequence[int]]
) -> Iterator[Finding]:
    """A finding for each copy but the first of its group, and for each that is in two splits."""
    told: set[int] = set()
    for kind, groups in (("duplicate", exact), ("near_duplicate", near)):
        for places in groups:
            # the copy that stays is one to test on: training on it is the fault
            group = sorted(places, key=lambda place: split_of(videos[place]).startswith("train"))
            first = videos[group[0]]
            for place in group[1:]:
                video = videos[place]
                # views of one event may show nearly the same
                same_event = kind == "near_duplicate" and video.event == first.event
                if same_event or place in told:
                    continue
                told.add(place)
                splits = {split_of(first), split_of(video)} - {""}
                if len(splits) == 2:
                    detail = f"in {split_of(video)}, and as {first.video_id} in {split_of(first)}"
                    yield Finding("split_leak", video.video_id, video.event, detail, first.video_id)
                what = "has the bytes of" if kind == "duplicate" else "shows the same as"
                detail = f"{what} {first.video_id}"
                yield Finding(kind, video.video_id, video.event, detail, first.video_id)


def split_of(video: Video) -> str:
    """The split of a video: of its row, or of the first folder of its name that is one."""
    if video.split:
        return video.split
    parts = video.video_id.lower().split("/")[:-1]
    return next((part for part in parts if part in SPLITS), "")
