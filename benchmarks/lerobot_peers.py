"""How does each library deliver the samples of a LeRobot data set? One process each, for
`lerobot_loading.py`.

    python lerobot_peers.py write ROOT EPISODES LENGTH     # a set by their own package
    python lerobot_peers.py PEER ROOT                      # then a JSON line on its input each

A workload is {"samples": [[episode, first frame, frames], ...], "units": [samples of each],
"look": whether to send thumbnails}; of every sample all cameras are read. The answer has CPU
seconds, files opened, and the thumbnails in the order of samples, cameras, times.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

FPS, HEIGHT, WIDTH, SHORT_SIDE = 30, 480, 640, 224
CAMERAS = tuple(f"observation.images.{name}" for name in ("top", "front", "wrist"))
Sample = tuple[int, int, int]
Reader = Callable[[list[Sample], list[int]], Iterator[np.ndarray]]
"""(samples, samples of each unit) -> frames [H, W, 3]: uint8, of `lerobot` float32 from 0 to 1."""
opened = 0
"""Files that the reader of this process has opened; libraries that hide it leave it 0."""


class Scene:
    """What a camera that stands still sees: a table with things on it, an arm that moves."""

    def __init__(self, view: int) -> None:
        import cv2
        from decode import make_textures

        back, *self._things = make_textures(WIDTH, HEIGHT)
        # cameras of robots are not as sharp as their pixels
        self._back = cv2.GaussianBlur(back[20 * view :][:HEIGHT, 40 * view :][:, :WIDTH], (0, 0), 2)
        self._things = [cv2.GaussianBlur(thing, (0, 0), 2) for thing in self._things[:2]]
        self._view = view

    def draw(self, episode: int, frame: int) -> np.ndarray:
        """A frame of an episode: uint8 [H, W, 3]."""
        picture = self._back.copy()
        for k, thing in enumerate(self._things):
            height, width = thing.shape[:2]
            at = frame / (9 + 4 * k) + 1.7 * episode + self._view
            x = int((0.5 + 0.45 * np.sin(at)) * (WIDTH - width))
            y = int((0.5 + 0.4 * np.cos(0.8 * at + k)) * (HEIGHT - height))
            picture[y : y + height, x : x + width] = thing
        return picture


def write(root: str, episodes: int, length: int) -> None:
    """Three cameras as `LeRobotDataset.create` writes them: AV1, a keyframe every 2 frames."""
    package = lerobot_package()
    video = {
        "dtype": "video",
        "shape": (HEIGHT, WIDTH, 3),
        "names": ["height", "width", "channels"],
    }
    state = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    features = {**dict.fromkeys(CAMERAS, video), "observation.state": state, "action": state}
    scenes = [Scene(view) for view in range(len(CAMERAS))]
    dataset = package.LeRobotDataset.create(
        "local/cameras", FPS, features, root=root, image_writer_threads=2
    )
    for episode in range(episodes):
        for frame in range(length):
            row = {
                camera: scene.draw(episode, frame)
                for camera, scene in zip(CAMERAS, scenes, strict=True)
            }
            row |= {
                name: np.array([episode, frame], np.float32)
                for name in ("observation.state", "action")
            }
            dataset.add_frame({**row, "task": "move the things"})
        dataset.save_episode()
    dataset.finalize()


def lerobot_package():
    """Their module of data sets, of `lerobot` or of `lerobot-dataset`."""
    try:
        from lerobot.datasets import lerobot_dataset as package
    except ImportError:
        from ledataset.datasets import lerobot_dataset as package
    return package


def lerobot(root: str) -> Reader:
    """Their loader, sample by sample, as a `DataLoader` asks it; it keeps its decoders open."""
    import torch

    torch.set_num_threads(1)
    package = lerobot_package()
    sets = {}

    def run(samples: list[Sample], units: list[int]) -> Iterator[np.ndarray]:
        for episode, first, length in samples:
            if length not in sets:
                deltas = {camera: [k / FPS for k in range(length)] for camera in CAMERAS}
                sets[length] = package.LeRobotDataset(
                    "local/cameras", root, delta_timestamps=deltas, video_backend="torchcodec"
                )
            data = sets[length]
            start = int(data.meta.episodes[episode]["dataset_from_index"])
            item = data[start + first]
            for camera in CAMERAS:
                yield from item[camera].reshape(-1, 3, HEIGHT, WIDTH).permute(0, 2, 3, 1).numpy()

    return run


def places(root: str) -> dict[tuple[int, str], tuple[str, int]]:
    """(episode, camera) -> its file, and its first frame there; from `meta/` alone."""
    import pyarrow.parquet as pq

    info = json.loads((Path(root) / "meta" / "info.json").read_text())
    found = {}
    for path in sorted((Path(root) / "meta" / "episodes").rglob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            for camera in CAMERAS:
                at = {
                    name: row[f"videos/{camera}/{name}"] for name in ("chunk_index", "file_index")
                }
                file = Path(root) / info["video_path"].format(video_key=camera, **at)
                first = round(row[f"videos/{camera}/from_timestamp"] * FPS)
                found[row["episode_index"], camera] = str(file), first
    return found


def torchcodec(root: str) -> Reader:
    """One decoder a file, kept open; small RGB by its own transform, sample by sample."""
    import torch
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    torch.set_num_threads(1)
    where, decoders = places(root), {}

    def run(samples: list[Sample], units: list[int]) -> Iterator[np.ndarray]:
        global opened
        for episode, first, length in samples:
            for camera in CAMERAS:
                path, start = where[episode, camera]
                if path not in decoders:
                    opened += 1
                    decoders[path] = VideoDecoder(
                        path,
                        seek_mode="approximate",
                        num_ffmpeg_threads=1,
                        dimension_order="NHWC",
                        transforms=[Resize((SHORT_SIDE, SHORT_SIDE * WIDTH // HEIGHT))],
                    )
                at = start + first
                numbers = list(range(at, at + length))
                yield from decoders[path].get_frames_at(numbers).data.numpy()

    return run


def bare(root: str) -> Reader:
    """The limit: libav's decoder alone over each group that a unit's samples need, once, and up to
    the last frame wanted; nothing converted, packets in memory before the clock starts."""
    import av

    where = places(root)
    files: dict[str, list] = {}
    for path in {path for path, _ in where.values()}:
        with av.open(path) as container:
            files[path] = [p for p in container.demux(video=0) if p.size]

    def run(samples: list[Sample], units: list[int]) -> Iterator[np.ndarray]:
        for start, stop in pairwise(np.cumsum([0, *units]).tolist()):
            wanted: dict[str, set[int]] = {}
            for episode, first, length in samples[start:stop]:
                for camera in CAMERAS:
                    path, at = where[episode, camera]
                    wanted.setdefault(path, set()).update(range(at + first, at + first + length))
            for path, numbers in wanted.items():
                with av.open(path) as container:
                    context = container.streams.video[0].codec_context
                    context.thread_count = 1
                    packets, last = files[path], -1
                    for number in sorted(numbers):
                        key = number
                        while not packets[key].is_keyframe:
                            key -= 1
                        for position in range(max(key, last + 1), number + 1):
                            context.decode(packets[position])
                        last = number
        yield from ()

    return run


def marey(root: str) -> Reader:
    """The reader of the decode stage, a unit of work at a time."""
    from marey.pipeline.data.build_index import make_index, write_index
    from marey.pipeline.data.index import Index
    from marey.pipeline.data.reading import Wanted
    from marey.pipeline.video import pyav_backend

    location = str(Path(root).with_suffix(".parquet"))
    write_index(make_index([root]), location)
    index = Index.load(location)
    events = {event.event_id: event for event in index.events()}
    opening = pyav_backend.open_video

    def counted(*args, **settings):
        global opened
        opened += 1
        return opening(*args, **settings)

    pyav_backend.open_video = counted

    def run(samples: list[Sample], units: list[int]) -> Iterator[np.ndarray]:
        shape = (SHORT_SIDE, SHORT_SIDE * WIDTH // HEIGHT)
        for start, stop in pairwise(np.cumsum([0, *units]).tolist()):
            wanted = []
            for episode, first, length in samples[start:stop]:
                event = events[f"episode_{episode:06d}"]
                names = [video.view for video in event.videos]
                views = np.repeat([names.index(camera) for camera in CAMERAS], length)
                times_s = np.tile((first + np.arange(length)) / FPS, len(CAMERAS))
                wanted.append(Wanted(event, views, times_s))
            read = index.reader.read(wanted, shape)
            assert not any(read.lacks), [lack for lack in read.lacks if lack][:3]
            yield from read.frames.reshape(-1, *shape, 3)

    return run


READERS = {"lerobot": lerobot, "torchcodec": torchcodec, "bare": bare, "marey": marey}


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """A frame made tiny: uint8 [24, 32, 3]."""
    import cv2
    from decode_peers import THUMBNAIL

    if frame.dtype != np.uint8:
        frame = np.round(frame * 255).astype(np.uint8)
    return cv2.resize(frame, THUMBNAIL, interpolation=cv2.INTER_AREA)


def main() -> None:
    name, root, *rest = sys.argv[1:]
    if name == "write":
        write(root, *map(int, rest))
        return
    try:
        reader = READERS[name](root)
    except Exception as error:  # whatever a library raises when it cannot be loaded
        print(json.dumps({"missing": str(error).splitlines()[0][:120]}), flush=True)
        return
    print(json.dumps({"ready": name}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        samples = [tuple(sample) for sample in asked["samples"]]
        before, begun = opened, time.process_time()
        small = [thumbnail(f) for f in reader(samples, asked["units"]) if asked["look"]]
        answer: dict = {"cpu_s": time.process_time() - begun, "opens": opened - before}
        if small:
            answer["thumbnails"] = base64.b64encode(np.stack(small).tobytes()).decode()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
