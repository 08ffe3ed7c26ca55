"""Images per second of a training step, beside lightly's SimCLR and MoCo v2 in the same run.

    python -m benchmarks.train_step [--backbone resnet18] [--size 32] [--batch 128] [--repeats 5]

Needs lightly (`pip install lightly`, in an environment of its own beside marey's packages). Both
sides have the same trunk, batch, optimiser and precision, and are driven turn by turn:

- step: crops are given as tensors; forward, loss, backward, optimiser, momentum and queue.
- augment: crops alone, from decoded uint8 images.
- whole: both. lightly varies each image with PIL in the workers of a
  DataLoader, as its examples do; marey varies the whole batch on the training device.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from marey.configs.load import override, read_preset, run_config
from marey.models.batch import replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.method import Method, Progress, methods
from marey.pipeline.runtime.cores import default_workers

Step = Callable[[], None]


class Ours:
    """marey's method of a preset, as the trainer drives it."""

    def __init__(self, preset: str, words: list[str], options: argparse.Namespace) -> None:
        same = [f"encoder.backbone={options.backbone}", f"encoder.image_size={options.size}"]
        tree = override(read_preset(preset), [*same, *words])
        config = run_config(tree, methods()[tree["name"]].Config)
        self.method: Method = methods()[config.name](Encoder(config.encoder), config.method)
        self.method.to(options.device).train()
        self.optimizer = torch.optim.SGD(self.method.parameters(), lr=0.06)
        self.precision = options.precision

    def batch(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 [B, S, S, 3] as a batch of the pipeline."""
        place = torch.arange(len(images), device=images.device)
        time_s = torch.zeros(len(images), 1, device=images.device)
        return {"frames": images[:, None], "instance": place, "place": place, "time_s": time_s}

    def step(self, batch: dict[str, Tensor]) -> None:
        """One optimiser step on an augmented batch."""
        with torch.autocast(batch["images"].device.type, torch.bfloat16, self.precision == "bf16"):
            loss = self.method(batch)["loss"]
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(Progress(1, 100, 0))


class Lightly:
    """The same method from lightly's parts, put together as in its examples."""

    def __init__(self, kind: str, options: argparse.Namespace) -> None:
        import timm
        from lightly.loss import NTXentLoss
        from lightly.models.modules import heads

        trunk = timm.create_model(options.backbone, num_classes=0)
        width = trunk.num_features
        self.momentum = kind == "moco"
        head = heads.MoCoProjectionHead if self.momentum else heads.SimCLRProjectionHead
        self.model = nn.Sequential(trunk, head(width, width, 128)).to(options.device)
        self.slow = copy.deepcopy(self.model).requires_grad_(False) if self.momentum else None
        bank = (2048, 128) if self.momentum else 0
        self.criterion = NTXentLoss(memory_bank_size=bank).to(options.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.06)
        self.precision = options.precision
        self.transform = _transform(kind, options.size)

    def step(self, first: Tensor, second: Tensor) -> None:
        """One optimiser step on two crops of each image."""
        from lightly.models.utils import update_momentum

        if self.slow is not None:
            update_momentum(self.model, self.slow, m=0.99)
        with torch.autocast(first.device.type, torch.bfloat16, self.precision == "bf16"):
            query = self.model(first)
            if self.slow is None:
                key = self.model(second)
            else:
                with torch.no_grad():
                    key = self.slow(second)
            loss = self.criterion(query.float(), key.float())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def _transform(kind: str, size: int) -> Any:
    from lightly.transforms import MoCoV2Transform, SimCLRTransform

    chosen = MoCoV2Transform if kind == "moco" else SimCLRTransform
    return chosen(input_size=size, gaussian_blur=0.0)


class Pictures(torch.utils.data.Dataset):
    """uint8 images as PIL images through a transform, for ever."""

    def __init__(self, images: Tensor, transform: Any, length: int) -> None:
        self.images, self.transform, self.length = images.numpy(), transform, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> list[Tensor]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[place % len(self.images)]))


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4, help="steps of one turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    try:
        import lightly  # noqa: F401
    except ImportError:
        sys.exit("lightly is not installed here: nothing to compare with")
    torch.manual_seed(0)
    images = torch.randint(0, 256, (1024, options.size, options.size, 3), dtype=torch.uint8)
    print(f"{options.backbone}, {options.size} px, batch {options.batch}, {options.precision}, "
          f"{options.device}, {torch.get_num_threads()} threads; images/s")  # fmt: skip
    print(f"{'':24}{'marey':>9}{'lightly':>9}{'ratio':>8}")
    # one group, since lightly's example does not guard against batch statistics that leak
    for kind, preset, words in (
        ("simclr", "simclr", []),
        ("moco", "moco_v2", ["method.norm_groups=1"]),
    ):
        ours, theirs = Ours(preset, words, options), Lightly(kind, options)
        for name, pair in (
            ("step", (_given(ours, images, options), _given_theirs(theirs, images, options))),
            ("augment", (_augment(ours, images, options), _crops(theirs, images, options))),
            ("whole", (_whole(ours, images, options), _whole_theirs(theirs, images, options))),
        ):
            rates = _turns(pair, options)
            ratio = statistics.median(a / b for a, b in zip(*rates, strict=True))
            mine, other = (statistics.median(side) for side in rates)
            print(f"{kind + ', ' + name:<24}{mine:>9.0f}{other:>9.0f}{ratio:>8.2f}", flush=True)


def _given(ours: Ours, images: Tensor, options: argparse.Namespace) -> Step:
    batch = ours.batch(images[: options.batch].to(options.device))
    with torch.no_grad():
        augmented = ours.method.augment(batch)
    return lambda: ours.step(augmented)


def _given_theirs(theirs: Lightly, images: Tensor, options: argparse.Namespace) -> Step:
    shape = (options.batch, 3, options.size, options.size)
    first, second = (torch.randn(shape, device=options.device) for _ in range(2))
    return lambda: theirs.step(first, second)


def _augment(ours: Ours, images: Tensor, options: argparse.Namespace) -> Step:
    def step() -> None:
        chosen = images[torch.randint(len(images), (options.batch,))].to(options.device)
        with torch.no_grad():
            ours.method.augment(ours.batch(chosen))

    return step


def _crops(theirs: Lightly, images: Tensor, options: argparse.Namespace) -> Step:
    crops = _loaded(theirs, images, options)

    def step() -> None:
        for crop in next(crops):
            crop.to(options.device)

    return step


def _whole(ours: Ours, images: Tensor, options: argparse.Namespace) -> Step:
    def step() -> None:
        chosen = images[torch.randint(len(images), (options.batch,))].to(options.device)
        with torch.no_grad():
            batch = ours.method.augment(ours.batch(chosen))
        ours.step(replace_frames(batch))

    return step


def _loaded(theirs: Lightly, images: Tensor, options: argparse.Namespace) -> Iterator[Any]:
    loader = torch.utils.data.DataLoader(
        Pictures(images, theirs.transform, 10_000_000),
        batch_size=options.batch,
        num_workers=default_workers(),
    )
    return iter(loader)


def _whole_theirs(theirs: Lightly, images: Tensor, options: argparse.Namespace) -> Step:
    crops = _loaded(theirs, images, options)

    def step() -> None:
        first, second = (crop.to(options.device) for crop in next(crops))
        theirs.step(first, second)

    return step


def _turns(pair: tuple[Step, Step], options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Images/s of both, turn by turn, after one turn to warm up."""
    rates: tuple[list[float], list[float]] = ([], [])
    for turn in range(options.repeats + 1):
        for side, step in zip(rates, pair, strict=True):
            start = time.perf_counter()
            for _ in range(options.steps):
                step()
            if options.device != "cpu":
                torch.cuda.synchronize()
            if turn:
                side.append(options.steps * options.batch / (time.perf_counter() - start))
    return rates


if __name__ == "__main__":
    main()
