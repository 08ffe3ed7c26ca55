"""What marey offers to Python programs: `import marey` and use the names in `marey.__all__`.

Each function is a few lines over the rooms of the pipeline, so that a program and the command line
do the same thing. docs/python.md shows each at work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset, get_worker_info

from marey.configs import plugins
from marey.configs.errors import InputError, SettingError
from marey.configs.load import override, read_preset, run_config
from marey.configs.schema import RunConfig
from marey.models.encoders.encoder import Encoder
from marey.models.method import find_method
from marey.pipeline.data.build_index import Motion, Scan, check_place, probe_corpus, write_index
from marey.pipeline.data.index import Index
from marey.pipeline.data.layouts.known import layout_of
from marey.pipeline.data.list_files import ListOptions, Times
from marey.pipeline.data.mixture_location import mixture_of
from marey.pipeline.data.renew_index import Renewal
from marey.pipeline.data.source import Reopened, Source, open_source
from marey.pipeline.embedding.baselines import encoder_location, open_encoder
from marey.pipeline.embedding.embeddings import Embeddings, load_embeddings
from marey.pipeline.evaluate import nearest_moments
from marey.pipeline.evaluate.run import Figures, run_eval
from marey.pipeline.runtime.cores import default_workers
from marey.pipeline.stream.decode import DecodeStage
from marey.pipeline.stream.plan import Plan, Position, make_plan
from marey.pipeline.stream.samples import batches as in_batches
from marey.pipeline.stream.samples import shuffled, split_rows
from marey.pipeline.stream.supply import UnitSupply
from marey.pipeline.training.collate import collate
from marey.pipeline.training.launch import Watch, prepare, run_training
from marey.pipeline.video.reader import read

__all__ = [
    "Run",
    "Samples",
    "batches",
    "embed",
    "evaluate",
    "find",
    "import_plugins",
    "index",
    "load_encoder",
    "open",
    "ray_dataset",
    "read",
    "recipe",
    "train",
]

Location = str | Path
Data = Location | Sequence[Location]
"""A corpus, or several as a mixture, perhaps with weights: `["a.parquet:3", "b.parquet:1"]`."""
Settings = Mapping[str, Any]
"""Settings by dotted name, as on the command line: `{"trainer.batch_size": 64}`."""


def import_plugins(*modules: str) -> None:
    """Import plugins by name, here and in every process that this one starts.

    A module that a program imports by itself is known here as well. This also lets files (a run's
    config.yaml, an encoder.json) name the modules.
    Raises MareyError for a module that does not exist, or whose import fails, with its error.
    """
    plugins.use(*modules)


def index(
    sources: Location | Sequence[Location],
    out: Location,
    *,
    views: str | None = None,
    labels_from: str | None = None,
    columns: Mapping[str, str] | None = None,
    root: Location | None = None,
    times: Times = "seconds",
    rows_at: str = "",
    renewal: Renewal | None = None,
    motion: Motion = "packets",
    scan: Scan = "header",
    workers: int | None = None,
    time_limit_s: float = 600.0,
    layout: str | None = None,
    frames_fps: float | None = None,
) -> Index:
    """Describe a corpus without decoding it, as `marey index` does: one row per video or span.

    sources: folders, files, or lists of videos and spans. out: the Parquet file to write, its name
    ending in `.parquet`, or a folder for an index in parts, its name ending in `/`.
    views: regular expression with the groups `event` and `view` (and perhaps `label`).
    labels_from: `folder`, or a regular expression with the group `label`.
    columns, root, times, rows_at: how lists are read, see `ListOptions`.
    renewal: `append` to the index at `out`, or `refresh` it; None makes it anew.
    scan: `header` describes MP4 and MOV files by their tables, `full` by all their packets.
    time_limit_s: timeout per file; a file that exceeds it is marked unreadable.
    layout: how the videos lie in storage, where it shall not be recognised. frames_fps: the sources
    are folders of numbered images, so many per second.
    Returns the opened index; what could not be read has a row with `status` and `error`.
    Raises InputError where a source does not exist, UsageError for an `out` that ends in neither.
    """
    check_place(str(out))
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    parts = probe_corpus(
        [str(source) for source in listed],
        str(out),
        views=views,
        motion=motion,
        labels_from=labels_from,
        lists=ListOptions(columns or {}, None if root is None else str(root), times, rows_at),
        renewal=renewal,
        workers=workers or default_workers(),
        limit_s=time_limit_s,
        layout=partial(layout_of, name=layout, fps=frames_fps),
        scan=scan,
    )
    write_index(parts, str(out))
    parts.remove()
    return Index.load(str(out))


def open(location: Location) -> Source:
    """Open an index, mined shards, a table of images or a folder of images.

    Raises InputError saying what it could be.
    """
    return open_source(str(location))


def recipe(preset: str | RunConfig, settings: Settings | None = None) -> RunConfig:
    """The checked settings of a run: a preset's name or a YAML file, with some settings changed.

    Raises SettingError naming what is wrong and the nearest valid key or value.
    """
    tree = preset.model_dump(mode="json") if isinstance(preset, RunConfig) else read_preset(preset)
    tree = override(tree, [])
    for key, value in (settings or {}).items():
        *parents, leaf = key.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
            if not isinstance(branch, dict):
                raise SettingError(f"{key}: {parent} is a single value, not a group of settings")
        branch[leaf] = value
        plugins.allow_typed({leaf: value})
    plugins.need(tree.get("plugins") or [], "the settings")
    return run_config(tree, find_method(tree["name"]).Config)


def _where(data: Data) -> str:
    """The location of a corpus, or of a mixture."""
    return str(data) if isinstance(data, str | Path) else mixture_of([str(one) for one in data])


def _plan(data: str, config: RunConfig, epochs: int) -> tuple[Plan, Source]:
    source = open_source(data)
    source.check_present()
    sampling = find_method(config.name).samples(config.method)
    return make_plan(source, sampling, seed=config.trainer.seed, epochs=epochs), source


class Samples(IterableDataset):
    """The samples of a recipe as a torch dataset, for a `DataLoader` and a loop of one's own.

    Items: dictionaries of tensors as a method's `augment` takes them, without the batch dimension:
    `frames` uint8 [F, H, W, 3] (RGB), `instance` and `place` int64, the sampler's targets (such as
    `time_s` float32 [F], seconds) and, where the data have labels, `class_id` int64.

    Every sample comes exactly once per epoch, whatever `num_workers` is: each worker decodes units
    of work of its own. With one worker (or none) the order is the plan's, shuffled by video. What
    cannot be read is left out and counted in `refused` (of this process; with `num_workers` above
    0 in the workers' copies).
    Raises InputError when no event of the data gives a sample, SettingError for a wrong setting.
    """

    def __init__(
        self,
        data: Data,
        preset: str | RunConfig,
        settings: Settings | None = None,
        *,
        epochs: int = 1,
    ) -> None:
        super().__init__()
        self.config = recipe(preset, settings)
        self.data = _where(data)
        self.plan, _ = _plan(self.data, self.config, epochs)
        self.refused: Counter[str] = Counter()
        self._plugins = plugins.active()

    def __len__(self) -> int:
        """Samples of all epochs, if none is refused."""
        return self.plan.total

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        if worker:
            plugins.adopt(self._plugins)  # it may be a new process
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        source = open_source(self.data)
        supply = UnitSupply(self.plan, Reopened(source))
        stage = DecodeStage.of(self.plan, source, self.config.data)
        for number, unit in enumerate(self.plan.units()):
            if number % step != first:
                continue
            for rows in stage(supply(unit)):
                for sample in split_rows(rows):
                    if sample["refused"]:
                        self.refused[str(sample["refused"])] += 1
                        continue
                    yield {
                        name: torch.as_tensor(np.asarray(value))
                        for name, value in sample.items()
                        if name not in ("sample", "refused")
                    }


def batches(
    data: Data,
    preset: str | RunConfig,
    settings: Settings | None = None,
    *,
    epochs: int = 1,
) -> Iterator[dict[str, Tensor]]:
    """Batches of a recipe's samples in this process, without Ray: decoded, shuffled, collated.

    Yields dictionaries of CPU tensors, the first dimension counting `trainer.batch_size` samples
    (fewer in the last): see `Samples`. The same recipe and data give the same batches.
    """
    samples = Samples(data, preset, settings, epochs=epochs)
    trainer, buffer = samples.config.trainer, samples.config.data.shuffle_buffer
    rng = np.random.default_rng([trainer.seed, 0, 0])
    rows = ({name: value.numpy() for name, value in sample.items()} for sample in samples)
    for batch in in_batches(shuffled(rows, buffer, rng), trainer.batch_size):
        yield collate(batch, torch.device("cpu"))


def ray_dataset(
    data: Data,
    preset: str | RunConfig,
    settings: Settings | None = None,
    *,
    epochs: int = 1,
) -> Any:
    """A recipe's samples as a `ray.data.Dataset`, decoded by Ray actors where it is consumed.

    Rows as in `Samples`, with `sample` (the sample's number) and `refused` (empty, or the reason
    why its frames are missing). Ray must be initialised by the caller, or is started by the first
    use as Ray does.
    """
    import ray

    from marey.pipeline.runtime.engine import quiet_data
    from marey.pipeline.stream.resources import budget
    from marey.pipeline.stream.samples import stream_ray

    config = recipe(preset, settings)
    location = _where(data)
    plan, _ = _plan(location, config, epochs)
    if not ray.is_initialized():
        ray.init()
    quiet_data()
    share = budget(float(ray.cluster_resources().get("CPU", 1)), 1, config.data.decode_actors)
    return stream_ray(plan, location, config.data, Position(), share)


@dataclass(frozen=True, slots=True)
class Run:
    """A finished training run."""

    folder: str
    summary: dict[str, Any]
    """`step`, `time_s`, `refused` (reason to samples), as in `summary.json`."""

    @property
    def encoder(self) -> Encoder:
        """The trained encoder, in evaluation mode."""
        return load_encoder(self.folder)


def train(
    preset: str | RunConfig,
    data: Data,
    out: Location,
    settings: Settings | None = None,
    *,
    engine: Literal["ray", "local"] = "local",
    resume: bool = False,
    probe: Location | None = None,
    watch: Watch | None = None,
) -> Run:
    """Train a recipe, as `marey train` does, and return the finished run.

    engine: `local` trains in this process, `ray` with decoding actors and trainers of their own.
    probe: data for the online probe. watch: called with new lines of metrics while it trains.
    Raises UsageError when `out` holds a run and `resume` is not set, InputError for data that
    cannot be used, SettingError for settings that cannot.
    """
    config = recipe(preset, settings)
    prepared = prepare(
        config,
        _where(data),
        str(out),
        resume=resume,
        probe_data=None if probe is None else str(probe),
    )
    return Run(str(out), run_training(prepared, engine=engine, watch=watch))


def load_encoder(location: Location) -> Encoder:
    """The encoder of a run's folder, or a baseline by name (`pixels`, `timm:resnet18`, ...).

    A torch module in evaluation mode: `encoder(encoder.preprocess(frames))` maps uint8
    [N, H, W, 3] to float32 [N, D]; `encoder.features(...)` gives the trunk's last map.
    Raises InputError when there is none.
    """
    return open_encoder(encoder_location(str(location)))[0]


@torch.inference_mode()
def embed(
    encoder: nn.Module | Location,
    frames: np.ndarray | Tensor | Location,
    times_s: Sequence[float] | None = None,
    *,
    batch: int = 64,
) -> np.ndarray:
    """Embeddings float32 [N, D] of frames: an array, or a video file at some times.

    encoder: of `load_encoder`, its location, or any module with `preprocess` (uint8 [N, H, W, 3]
        to its input); a module without it is given float32 [N, 3, H, W] in [0, 1]. Modules are
        used as they are: call `eval()` first.
    frames: uint8 [N, H, W, 3] RGB (of clips [N, T, H, W, 3]), or the path or URI of a video with
        times_s: presentation times in seconds.
    Raises InputError for other shapes, and as `read` does.
    """
    module = encoder if isinstance(encoder, nn.Module) else load_encoder(encoder)
    if isinstance(frames, str | Path):
        if times_s is None:
            raise InputError(f"{frames}: give times_s, the times (seconds) of the frames to embed")
        frames = read(str(frames), list(times_s))
    pictures = torch.as_tensor(frames)
    if pictures.dtype != torch.uint8 or pictures.ndim not in (4, 5) or pictures.shape[-1] != 3:
        raise InputError(
            f"frames must be uint8 [N, H, W, 3] or [N, T, H, W, 3], got {pictures.dtype} "
            f"{list(pictures.shape)}"
        )
    prepare_frames = getattr(module, "preprocess", _unit_range)
    place = next((p.device for p in module.parameters()), torch.device("cpu"))
    vectors = [
        module(prepare_frames(pictures[start : start + batch].to(place))).float().cpu()
        for start in range(0, len(pictures), batch)
    ]
    if not vectors:
        raise InputError("no frames to embed: the first dimension is 0")
    return torch.cat(vectors).numpy()


def _unit_range(frames: Tensor) -> Tensor:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in [0, 1]."""
    return frames.movedim(-1, -3).float() / 255


def evaluate(
    protocol: str,
    embeddings: Location | Embeddings,
    *,
    labels: Location | None = None,
    gallery: Location | Embeddings | None = None,
    baseline: Location | Embeddings | None = None,
    **settings: Any,
) -> Figures:
    """One protocol's figures, with chance beside them, as `marey eval` prints them.

    protocol: knn, linear, progression, alignment, retrieval, copies or geometry.
    embeddings, gallery, baseline: folders that `marey embed` wrote. settings: the protocol's own.
    Raises SettingError for an unknown protocol or setting, InputError for data that do not fit.
    """
    return run_eval(
        protocol, embeddings, labels=labels, gallery=gallery, baseline=baseline, **settings
    )


def find(
    embeddings: Location | Embeddings, video: str, time_s: float, *, count: int = 5
) -> list[nearest_moments.Moment]:
    """The moments of other events that are most like one, as `marey find` does: one from each.

    embeddings: a folder that `marey embed` wrote, or one loaded. video: a `video_id`, or the end
    of one. time_s: seconds, in the clock of the video's event; the embedded frame nearest to it
    counts. Returns at most `count` moments, the most similar first, each with `video_id`, `event`,
    `view`, `frame`, `time_s` (seconds) and `similarity` (cosine).
    Raises InputError for a video or a time that is not there, and where there is no other event.
    """
    loaded = embeddings if isinstance(embeddings, Embeddings) else load_embeddings(embeddings)
    return nearest_moments.find(loaded, video, time_s, count)[1]
