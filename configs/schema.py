"""What can be set for a run: every setting, its default, bound and one-line meaning."""

from typing import Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from marey.configs import plugins
from marey.configs.base import MethodConfig, Settings
from marey.configs.encoder import EncoderConfig

DECODERS = ("pyav", "decord", "torchcodec", "torchcodec-cuda")
"""marey's own."""


class DataConfig(Settings):
    """How samples reach the trainer."""

    decode_size: int | tuple[int, int] = 128
    """Height and width in pixels at which frames are decoded and travel (uint8); one number for
    both. Frames are scaled to cover it and cut to its centre."""
    backend: str = "pyav"
    """Decoder of videos: pyav, decord, torchcodec, torchcodec-cuda (decodes on GPUs, which its
    actors share with the trainers), a plugin's, or `package.module:function`."""
    shuffle_buffer: int = Field(default=256, ge=1, le=1_000_000)
    """Size of the shuffle buffer in samples (at most 512 MiB of them), which mixes samples of one
    video with others; 1 keeps the planned order."""
    prefetch_batches: int = Field(default=2, ge=1, le=64)
    """Batches prefetched ahead of the step that uses them."""
    decode_actors: int | None = Field(default=None, ge=1, le=100_000)
    """Number of decoding actors (threads, without Ray); unset: the CPUs that the trainers leave."""

    @property
    def frame_shape(self) -> tuple[int, int]:
        """(height, width) of decoded frames."""
        size = self.decode_size
        return (size, size) if isinstance(size, int) else size

    @field_validator("backend")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in DECODERS and not plugins.is_dotted(name):
            plugins.load()
            known = [*DECODERS, *plugins.brought("decoder")]
            if name not in known:
                raise ValueError(plugins.unknown("decoder", name, known))
        return name

    @model_validator(mode="after")
    def _bounds(self) -> "DataConfig":
        if not all(16 <= side <= 2160 for side in self.frame_shape):
            raise ValueError(
                f"decode_size must be within 16 to 2160 pixels, not {self.decode_size}"
            )
        return self


class OptimizerConfig(Settings):
    """Optimiser, and the learning rate over the run."""

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    """Optimiser."""
    lr: float = Field(default=5e-4, gt=0, le=100)
    """Peak learning rate."""
    bias_lr: float | None = Field(default=None, gt=0, le=100)
    """Peak learning rate of one-dimensional parameters (norms, biases), with the same schedule;
    unset: that of the others (Barlow Twins has two)."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Layer-wise decay: each block of the encoder's trunk has this share of the learning rate of
    the one after it; 1 gives all the same."""
    weight_decay: float = Field(default=1e-4, ge=0, le=10)
    """Weight decay."""
    weight_decay_end: float | None = Field(default=None, ge=0, le=10)
    """Final weight decay, reached along a half cosine; unset: constant."""
    decay_on: Literal["weights", "matrices", "all"] = "weights"
    """What weight decay is applied to. weights: matrices and kernels, not norms, biases, position
    embeddings and class tokens; matrices: these embeddings and tokens too (MAE, DINO); all: every
    parameter, also norms and biases (plain SGD as of MoCo and SimSiam; not for lars)."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of sgd and lars; beta1 of adamw."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """beta2 of adamw."""
    nesterov: bool = True
    """Nesterov's momentum for sgd."""
    schedule: Literal["cosine", "linear", "one_cycle", "step", "constant"] = "cosine"
    """Learning-rate schedule after warm-up: half cosine or a line to `lr_end`, torch's one-cycle,
    steps down at `milestones`, or constant."""
    milestones: tuple[float, ...] = ()
    """Shares of the run after which schedule=step multiplies the rate by `step_factor`."""
    step_factor: float = Field(default=0.1, gt=0, lt=1)
    """Factor of each step down of schedule=step."""
    warmup: float = Field(default=0.05, ge=0, le=0.9)
    """Share of the steps used for linear warm-up (one_cycle: share before the peak)."""
    lr_start: float | None = Field(default=None, ge=0, le=100)
    """Learning rate at which the warm-up begins; unset: one step's share of the peak."""
    lr_end: float = Field(default=0.0, ge=0, le=100)
    """Final learning rate of schedule=cosine and linear."""
    stretch: float = Field(default=1.0, ge=1, le=10)
    """Schedules of learning rate and weight decay are those of a run this many times as long, and
    are cut off where this one ends (V-JEPA: 1.25)."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Gradient clipping: largest norm of the gradient; unset: no clipping."""

    @model_validator(mode="after")
    def _agrees(self) -> "OptimizerConfig":
        if self.schedule == "step" and not self.milestones:
            raise ValueError("schedule=step needs milestones, such as [0.6, 0.8]")
        if self.milestones and self.schedule != "step":
            raise ValueError("milestones are those of schedule=step")
        if not all(0 < share < 1 for share in self.milestones):
            raise ValueError(f"milestones are shares of the run in (0, 1), not {self.milestones}")
        if self.name == "lars" and self.decay_on == "all":
            raise ValueError("lars never decays norms and biases: decay_on must not be all")
        return self


class TrainerConfig(Settings):
    """The loop."""

    epochs: int = Field(default=10, ge=1, le=100_000)
    """Passes over the corpus; every sample is used exactly once per epoch."""
    steps: int | None = Field(default=None, ge=1)
    """Length of the run in optimiser steps of `batch_size` samples, in place of `epochs` (also the
    length of the schedule); unset runs all epochs."""
    batch_size: int = Field(default=2, ge=1, le=65_536)
    """Samples per optimiser step, over all workers and accumulation steps. Where an elastic run has
    lost workers, those left take equal shares of it, and more steps where it does not divide."""
    accumulate: int = Field(default=1, ge=1, le=1024)
    """Gradient accumulation: forward-backward passes per optimiser step (contrastive negatives stay
    within a pass)."""
    workers: int = Field(default=1, ge=1, le=4096)
    """Training processes (one GPU each where there are GPUs)."""
    min_workers: int | None = Field(default=None, ge=1)
    """Minimum number of workers of an elastic run; unset waits until all are there."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What each training process holds. ddp: all weights; fsdp: a share of weights, gradients and
    optimiser state (FSDP2), for networks that are too large for one GPU; checkpoints are then
    written in shards, and go on with any number of workers, also with ddp."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model trains."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bfloat16 autocast on CUDA, float32 on the CPU."""
    sync_batch_norm: bool = True
    """Synchronised batch norm over all GPUs of a run, so that statistics do not leak which worker a
    sample is on (never for MoCo 1 and 2, whose shuffled keys need statistics of their own)."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an exponential moving average (EMA) of the encoder's weights, which is then exported
    (0.999 is usual); unset exports the weights as trained."""
    compile: bool = False
    """Compile the training step with torch.compile."""
    recompute: bool = False
    """Activation checkpointing: the encoder keeps only the inputs of its blocks for the backward
    pass and computes the rest again, for less memory and a third more time."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of plans, weights, augmentation and shuffling."""
    skip_spikes: float | None = Field(default=None, gt=1)
    """Leave out steps whose gradient norm is more than this many times the usual one, or not
    finite (10 is cautious); the host then waits for the device at each step. Unset: none."""
    log: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """What also gets the metrics, beside `metrics.jsonl`: `tensorboard` (in the run's folder),
    `wandb` and `mlflow` where these packages are installed and set up; `[]` for none."""
    log_every: int = Field(default=10, ge=1)
    """Steps between two logged lines of metrics."""
    checkpoint_every: int = Field(default=200, ge=1)
    """Steps between two checkpoints (one is always written at the end)."""
    probe_every: int | None = Field(default=None, ge=1)
    """Steps between two online probes on the held-out data given with --probe; unset: ten a run."""
    max_failures: int = Field(default=3, ge=-1, le=1000)
    """Worker failures that a run survives before it fails; -1: any number."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimiser and learning-rate schedule."""

    @field_validator("log", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _divides(self) -> "TrainerConfig":
        share = self.workers * self.accumulate
        if self.batch_size % share:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of "
                f"workers x accumulate ({share})"
            )
        if self.compile and self.parallel == "fsdp":
            raise ValueError("compile is not made for parallel=fsdp yet: leave one of them out")
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(
                f"min_workers ({self.min_workers}) must not exceed workers ({self.workers})"
            )
        return self


class RunConfig(Settings):
    """Everything that a training run depends on, beside the data."""

    name: str
    """The method's name, or where it is (`package.module:Class`)."""
    plugins: tuple[str, ...] = ()
    """Modules that bring what the run uses: methods, samplers, decoders, backbones. They are
    imported if named with `--import`, or installed (docs/extending.md)."""
    method: SerializeAsAny[MethodConfig]
    """The method's hyperparameters."""
    encoder: EncoderConfig = EncoderConfig()
    """The exported network."""
    data: DataConfig = DataConfig()
    """How samples reach the trainer."""
    trainer: TrainerConfig = TrainerConfig()
    """The loop."""
