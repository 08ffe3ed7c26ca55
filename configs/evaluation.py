"""What can be set for each protocol of `marey eval`: meaning, default, bounds."""

from typing import Literal

from pydantic import Field, model_validator

from marey.configs.base import Settings


class ProtocolSettings(Settings):
    """Base of every protocol's settings."""


class Seeded(ProtocolSettings):
    """A protocol that draws something: a split, a subset, the resamples of an interval."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of every random draw of the protocol."""


class Labelled(Seeded):
    """A protocol that reads labels."""

    attribute: str = "phase"
    """Which label of a frame is used, where the label files hold several."""


class FewLabels(Labelled):
    """A protocol that can be run with few of the labels."""

    labelled: float = Field(default=1.0, gt=0, le=1)
    """Share of the training videos whose labels are used (few-label evaluation)."""
    shots: int = Field(default=0, ge=0, le=1_000_000)
    """Labelled training videos per class; 0 uses `labelled` instead."""

    @model_validator(mode="after")
    def _one_of_them(self) -> "FewLabels":
        if self.shots and self.labelled < 1:
            raise ValueError(
                f"shots={self.shots} with labelled={self.labelled:g}: give only one of them"
            )
        return self


class DrawnLabels(FewLabels):
    """The same, with the figures averaged over several draws of the labelled videos."""

    draws: int = Field(default=5, ge=1, le=1000)
    """Draws of the labelled videos that figures are averaged over (one where all are labelled)."""


class KNNSettings(DrawnLabels):
    """Weighted k-nearest-neighbour classification of frames by frames of other videos."""

    k: int = Field(default=20, ge=1, le=100_000)
    """Neighbours that vote."""
    tau: float = Field(default=0.07, gt=0, le=100)
    """Temperature of a neighbour's weight, exp(cosine similarity / tau)."""
    balanced: bool = False
    """Divide the weight of each class by its number of frames in the gallery."""


class LinearSettings(DrawnLabels):
    """Linear probe: logistic regression on frozen embeddings, ridge for regression targets."""

    penalties: int = Field(default=45, ge=1, le=45)
    """L2 penalties tried on the validation videos, evenly spread over 1e-6 to 1e5."""
    crosscheck: bool = False
    """Train a second head by SGD too; the two should agree within half a point."""


class ProgressionSettings(Labelled):
    """Phase progression (R2) and phase classification with 10, 50 and 100 % of the labels."""

    penalties: int = Field(default=9, ge=1, le=45)
    """L2 penalties tried on the validation videos, evenly spread over 1e-6 to 1e5."""
    draws: int = Field(default=5, ge=1, le=1000)
    """Draws of the labelled videos that the few-label figures are averaged over."""


class StatesSettings(Seeded):
    """State probe: a linear classifier for every column of a table of states, weighted F1."""

    min_entropy: float = Field(default=0.6, ge=0, le=20)
    """Labels whose entropy over all frames is below this, in nats, are left out: they hardly
    vary."""
    tolerance_s: float = Field(default=0.5, ge=0, le=3600)
    """A frame takes the row of the table that is nearest in time, up to this far away."""
    lr: float = Field(default=3e-4, gt=0, le=10)
    """Learning rate of Adam."""
    epochs: int = Field(default=100, ge=1, le=10_000)
    """Most passes over the training frames."""
    patience: int = Field(default=15, ge=1, le=10_000)
    """A label's training ends when its validation accuracy has not risen for so many epochs."""


class AlignmentSettings(Labelled):
    """Temporal alignment: between views of an event, and between videos (Kendall's tau)."""

    stride: int = Field(default=2, ge=1, le=10_000)
    """Kendall's tau: every so many frames of a video are compared."""


class RetrievalSettings(ProtocolSettings):
    """Frame and video retrieval: hit@k, precision@k, mean average precision."""

    task: Literal["scene", "semantic", "temporal", "video"] = "scene"
    """What is relevant. scene: other moments of the same video; semantic: frames of other events
    with the same label; temporal: the same moment of another view; video: videos with the same
    label."""
    attribute: str = "phase"
    """Which label of a frame is used, where the label files hold several."""
    window_s: float = Field(default=5.0, ge=0, le=3600)
    """scene: frames of the query's video nearer than this are left out, in seconds."""
    delta_s: float = Field(default=0.2, ge=0, le=3600)
    """temporal: frames of the other view within this time are relevant, in seconds."""


class CopiesSettings(ProtocolSettings):
    """Copy detection: augmented copies of frames (`embed --copies`) find their originals."""

    delta_s: float = Field(default=0.5, ge=0, le=3600)
    """Frames within this time of the original also count as found, in seconds."""


class GeometrySettings(Seeded):
    """Geometry of the embeddings: collapse, effective rank, uniformity, alignment; no labels."""

    frames: int = Field(default=4096, ge=2, le=1_000_000)
    """Frames (or copied frames) drawn for the figures."""


class TrackingSettings(ProtocolSettings):
    """Trackers against ground truth (OTB, LaSOT, GOT-10k, VOT folders); one pass, or TRE."""

    trackers: str = ""
    """Names of trackers, separated by commas; empty: all but OpenCV's."""
    starts: int = Field(default=1, ge=1, le=1000)
    """Evenly spaced start frames per sequence; 1 is one-pass evaluation, 20 the benchmark's TRE."""
    tracker_settings: dict[str, int | float | bool | str | None] = Field(default_factory=dict)
    """Settings of every named tracker (`marey track --tracker NAME --help` lists them), e.g.
    tracker_settings.rate=0.02."""

    @property
    def names(self) -> list[str]:
        """The trackers that were named, in order."""
        return [name.strip() for name in self.trackers.split(",") if name.strip()]


class PropagationSettings(ProtocolSettings):
    """Label propagation: a first frame's box carried through tracked sequences by the features."""

    size: int = Field(default=240, ge=32, le=2160)
    """Short side of the frames in pixels."""
    top_k: int = Field(default=10, ge=1, le=10_000)
    """Most similar positions that a position takes its label from."""
    context: int = Field(default=20, ge=0, le=1000)
    """Recent frames that are searched beside the first."""
    radius: int = Field(default=12, ge=1, le=1000)
    """Largest distance of a position in recent frames, in cells; the first is searched
    everywhere."""
    temperature: float = Field(default=0.05, gt=0, le=100)
    """Temperature of the softmax over the most similar positions."""


class FinetuneSettings(FewLabels):
    """Fine-tuning of the whole encoder on labelled frames."""

    fps: float = Field(default=1.0, ge=0, le=1000)
    """Frames per second that are read; 0 reads every frame."""
    epochs: int = Field(default=30, ge=1, le=100_000)
    """Passes over the training frames."""
    batch_size: int = Field(default=256, ge=2, le=65_536)
    """Frames per optimiser step."""
    rates: tuple[float, ...] = Field(default=(0.01, 0.03, 0.1), min_length=1)
    """Learning rates of the trunk; the best on the validation videos is reported."""
    flip: bool = True
    """Mirror half of the training frames."""

    @model_validator(mode="after")
    def _positive_rates(self) -> "FinetuneSettings":
        if min(self.rates) <= 0:
            raise ValueError(f"rates must be above 0, not {list(self.rates)}")
        return self


class AttentiveSettings(FinetuneSettings):
    """An attentive probe: attention over the places of a frozen encoder's map."""

    epochs: int = Field(default=20, ge=1, le=100_000)
    """Passes over the training frames."""
    batch_size: int = Field(default=64, ge=2, le=65_536)
    """Frames per optimiser step."""
    rates: tuple[float, ...] = Field(default=(3e-4, 1e-3, 3e-3), min_length=1)
    """Learning rates of the probe; the best on the validation videos is reported."""


class PretextSettings(Seeded):
    """A run's own pretext task on other data, beside the untrained weights."""

    samples: int = Field(default=1024, ge=1, le=100_000_000)
    """Samples that are scored."""
