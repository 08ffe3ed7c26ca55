"""The jobs of `end_to_end.py` as users write them: a `DataLoader` over PyAV, torchcodec or decord.

    python -m benchmarks.end_to_end_peers JOB READER FILES.json --steps N ...

A sample is read from its video alone, at full size, and augmented by the workers (lightly's
transforms where it is installed, else the same by torchvision). Networks, their sizes and, without
lightly, the loss are marey's, so that what differs is the feeding. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from marey.configs.schema import EncoderConfig
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.heads import mlp
from marey.models.objectives.info_nce import nt_xent

Read = Callable[[str, list[float]], list[np.ndarray]]
"""(path, ascending times in seconds) -> the frames shown then, uint8 [H, W, 3]."""
LIGHTLY = importlib.util.find_spec("lightly") is not None
GAP_S = 1.0
"""Distance of the frames of a tuple."""


def pyav(path: str, times_s: list[float]) -> list[np.ndarray]:
    """Seek before the first time, decode until the last is shown."""
    import av

    frames: list[np.ndarray] = []
    shown: Any = None
    with av.open(path) as container:
        stream: Any = container.streams.video[0]
        tick, first = float(stream.time_base), stream.start_time or 0
        container.seek(int(times_s[0] / tick) + first, stream=stream)
        frame: Any
        for frame in container.decode(stream):
            while len(frames) < len(times_s) and shown is not None:
                if (frame.pts - first) * tick <= times_s[len(frames)] + 1e-6:
                    break
                frames.append(shown.to_ndarray(format="rgb24"))
            if len(frames) == len(times_s):
                return frames
            shown = frame
    return frames + [shown.to_ndarray(format="rgb24")] * (len(times_s) - len(frames))


def torchcodec(path: str, times_s: list[float]) -> list[np.ndarray]:
    """Its decoder, one thread, by time."""
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

    decoder = VideoDecoder(path, num_ffmpeg_threads=1, dimension_order="NHWC")
    last = decoder.metadata.end_stream_seconds - 1e-3
    begin = decoder.metadata.begin_stream_seconds
    return list(decoder.get_frames_played_at([min(last, begin + t) for t in times_s]).data.numpy())


def decord(path: str, times_s: list[float]) -> list[np.ndarray]:
    """Its reader, one thread, by frame number."""
    import decord as library

    reader = library.VideoReader(path, num_threads=1)
    fps, last = reader.get_avg_fps(), len(reader) - 1
    return list(reader.get_batch([min(last, int(t * fps)) for t in times_s]).asnumpy())


READERS: dict[str, Read] = {"pyav": pyav, "torchcodec": torchcodec, "decord": decord}


@dataclass(frozen=True)
class TwoCrops:
    """Two crops of a picture. Not a lambda: from Python 3.14 on workers get it pickled."""

    crop: Callable[[Any], Any]

    def __call__(self, image: Any) -> list[Any]:
        return [self.crop(image), self.crop(image)]


def augmentation(size: int) -> Callable[[Any], Any]:
    """SimCLR's two crops of a PIL image, float32 [3, size, size] each."""
    if LIGHTLY:
        from lightly.transforms import SimCLRTransform  # pyright: ignore[reportMissingImports]

        return SimCLRTransform(input_size=size, cj_strength=0.5, gaussian_blur=0.0)
    crop = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    return TwoCrops(crop)


class Samples(Dataset):
    """Samples of a job by number; `items` has the video and the times of each."""

    def __init__(self, options: argparse.Namespace, files: list[dict[str, Any]]) -> None:
        self.job, self.read, self.size = options.job, READERS[options.reader], options.size
        self.augment = augmentation(self.size)
        rng = np.random.default_rng(0)
        self.items: list[tuple[str, list[float]]] = []
        if self.job == "embed":
            self.items = [(f["path"], list(np.arange(0, f["s"], 1 / options.rate))) for f in files]
            return
        while len(self.items) < options.steps * options.batch:
            # as a shuffled epoch: every video `per_video` times
            for n in rng.permutation(np.repeat(np.arange(len(files)), options.per_video)):
                long = files[n]["s"]
                first = rng.uniform(0, max(0.0, long - 2 * GAP_S - 0.1))
                times = [first, first + GAP_S, first + 2 * GAP_S]
                alone = [rng.uniform(0, max(0.0, long - 0.1))]
                self.items.append((files[n]["path"], times if self.job == "order" else alone))
        self.items = self.items[: options.steps * options.batch]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        from PIL import Image

        path, times_s = self.items[number]
        images = [Image.fromarray(frame) for frame in self.read(path, times_s)]
        if self.job == "embed":
            cut: Any = transforms.Compose(
                [
                    transforms.Resize(self.size),
                    transforms.CenterCrop(self.size),
                    transforms.ToTensor(),
                ]
            )
            return torch.stack([cut(image) for image in images])
        if self.job == "order":
            label = int(number % 4 == 0)
            crops = [self.augment(image)[0] for image in images]
            return torch.stack(crops if label else [crops[0], crops[2], crops[1]]), label
        return torch.stack(self.augment(images[0])[:2])


def steps(options: argparse.Namespace, loader: DataLoader, encoder: Encoder) -> Iterator[int]:
    """Train or embed; gives the samples of each step."""
    head = {"simclr": mlp(encoder.out_dim, 256, 128, norm=True, norm_out=True),
            "order": mlp(3 * encoder.out_dim, 128, 64, 2, norm=True)}.get(options.job)  # fmt: skip
    if head is None:
        encoder.eval()
        for frames in loader:
            with torch.inference_mode():
                for part in frames.flatten(0, 1).split(16):
                    encoder(part)
            yield frames.shape[1]
        return
    network = nn.ModuleList([encoder, head]).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for batch in loader:
        if options.job == "order":
            images, label = batch
            embedded = encoder(images.flatten(0, 1)).unflatten(0, (-1, 3)).flatten(1)
            loss = nn.functional.cross_entropy(head(embedded), label)
        else:
            images, label = batch, batch
            loss = contrast(head(encoder(images.transpose(0, 1).flatten(0, 1))))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield len(label)


def contrast(projected: Tensor) -> Tensor:
    """SimCLR's loss of [2N, D] projections, the first crops first."""
    if LIGHTLY:
        from lightly.loss import NTXentLoss  # pyright: ignore[reportMissingImports]

        return NTXentLoss(temperature=0.5)(*projected.chunk(2))
    first, second = nn.functional.normalize(projected).chunk(2)
    others = ~torch.eye(len(first), dtype=torch.bool).repeat(2, 2)
    return nt_xent(first, second, 0.5, others).mean()


def main() -> None:
    """Run one job, print its samples, seconds and the share of them spent waiting for data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=["simclr", "order", "embed"])
    parser.add_argument("reader", choices=list(READERS))
    parser.add_argument("files", help="JSON: [{path, s}], s the length in seconds")
    for name, value in {"steps": 8, "batch": 32, "size": 96, "per_video": 1, "workers": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--rate", type=float, default=4.0)
    parser.add_argument("--backbone", default="tiny")
    options = parser.parse_args()
    with open(options.files, encoding="utf-8") as file:
        files = json.load(file)
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(backbone=options.backbone, image_size=options.size))
    samples = Samples(options, files)
    loader: DataLoader = DataLoader(
        samples, batch_size=1 if options.job == "embed" else options.batch,
        num_workers=options.workers,
    )  # fmt: skip
    count, waited, started = 0, 0.0, time.perf_counter()
    waiting = _timed(loader)
    for done in steps(options, waiting, encoder):  # type: ignore[arg-type]
        count += done
    waited, passed = waiting.waited_s, time.perf_counter() - started
    json.dump({"samples": count, "wait": waited / passed}, sys.stdout)


class _timed:
    """An iterable that notes how long it was waited for."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader, self.waited_s = loader, 0.0

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self.loader)
        while True:
            started = time.perf_counter()
            item = next(iterator, None)
            self.waited_s += time.perf_counter() - started
            if item is None:
                return
            yield item


if __name__ == "__main__":
    main()
