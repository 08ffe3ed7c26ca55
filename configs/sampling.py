"""Which frames make a sample: the settings of every sampler family.

A method names one of these; `marey.pipeline.sampling` turns it into a sampler. Times are seconds.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from marey.configs.base import Settings

Seconds = Annotated[float, Field(gt=0, le=3600)]


class FramesSampling(Settings):
    """Single frames (or images of a folder or table), stratified over the time of a video."""

    kind: Literal["frames"] = "frames"
    per_video: int = Field(default=1, ge=1, le=10_000)
    """Frames drawn from one video in an epoch, one from each of as many equal time bins."""
    min_contrast: float = Field(default=3.0, ge=0, le=127)
    """Frames and images whose brightness has a lower standard deviation than this, of 255, are left
    out and reported as `blank`: fades, black frames."""
    labelled_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the labelled videos (or images) whose labels are used; the others' are hidden,
    always the same ones, and those of a smaller share are among those of a larger one."""
    labelled_part: float | None = Field(default=None, gt=0, lt=1)
    """Part of an epoch's samples that shall have a label: where fewer have one, what is labelled is
    visited more often (S4L: 0.5). Unset: everything once."""


class StackSettings(Settings):
    """Stacks of frames in place of single ones (multi-frame TCN, Dwibedi et al. 2018)."""

    stack: int = Field(default=1, ge=1, le=64)
    """Frames that stand for one time: the one shown then and those before it, never across a cut;
    above 1 for an encoder of clips (`encoder.clip_frames`)."""
    stack_s: Seconds = 0.1
    """Time between the frames of a stack (`encoder.clip_step_s`), to the nearest whole number of
    frames."""

    @property
    def look_back_s(self) -> float:
        """Time from the first frame of a stack to its last."""
        return (self.stack - 1) * self.stack_s


class TimePairsSampling(StackSettings):
    """Frame pairs close in time within one view (TCN, single-view)."""

    kind: Literal["time_pairs"] = "time_pairs"
    pairs: int = Field(default=16, ge=2, le=512)
    """Anchor/positive pairs in one sample, all from one view of one video."""
    positive_s: Seconds = 0.2
    """A positive lies within this time of its anchor (6 frames at 29 fps in the paper)."""
    negative_s: Seconds = 0.4
    """Frames farther than this are negatives; the band between is ignored."""
    window_s: Seconds = 20.0
    """All frames of a sample come from one range of this length, of fewer frames in a shorter shot
    and of more where it holds fewer than `pairs`; longer than `negative_s`."""
    per_video: int = Field(default=1, ge=1, le=10_000)
    """Samples drawn from one video in an epoch."""

    @model_validator(mode="after")
    def _margin(self) -> "TimePairsSampling":
        if self.negative_s <= self.positive_s:
            raise ValueError(
                f"negative_s ({self.negative_s}) must exceed positive_s ({self.positive_s})"
            )
        if self.window_s <= self.negative_s:
            raise ValueError(
                f"window_s ({self.window_s}) must exceed negative_s ({self.negative_s}), or a "
                "sample has no negatives"
            )
        if self.negative_s < self.look_back_s:
            raise ValueError(
                f"negative_s ({self.negative_s}) must be at least a stack's length "
                f"({self.look_back_s:g} s), or stacks that repel each other share frames"
            )
        return self


class ViewPairsSampling(StackSettings):
    """Frame pairs at one time from two synchronised views (TCN, multi-view, section 3.1)."""

    kind: Literal["view_pairs"] = "view_pairs"
    pairs: int = Field(default=16, ge=1, le=512)
    """Distinct times in one sample, farther apart than a stack is long; each gives one anchor and
    one positive from another view."""
    window_s: Seconds = 20.0
    """All times of a sample come from one range of at most this length."""
    anchors: Literal["any_view", "one_view", "first_view"] = "any_view"
    """Draw the ordered pair of views for every time (any_view) or once a sample (one_view), or
    always take the first two in the order of their names (first_view: stereo, the left camera's
    name first)."""
    per_event: int = Field(default=1, ge=1, le=10_000)
    """Samples drawn from one synchronised event in an epoch."""


class TuplesSampling(Settings):
    """Ordered and misordered three-frame tuples in windows of high motion (Shuffle and Learn)."""

    kind: Literal["tuples"] = "tuples"
    max_span_s: Seconds = 2.0
    """Largest distance between first and last frame of a tuple (60 frames in the paper)."""
    min_gap_s: Seconds = 0.5
    """Smallest distance of a negative's middle frame from the tuple (15 frames in the paper)."""
    negative_share: float = Field(default=0.75, gt=0, lt=1)
    """Share of the tuples whose middle frame is out of order."""
    per_video: int = Field(default=8, ge=1, le=10_000)
    """Tuples drawn from one video in an epoch."""
    motion_weighted: bool = True
    """Draw windows with probability proportional to their motion, else uniformly."""
    inner: bool = False
    """Add a fourth frame: the one that is in order, between the ends. Beside a middle frame out of
    order it tells whether that one looks as if it were in order, as in cyclic motion."""

    @model_validator(mode="after")
    def _reach(self) -> "TuplesSampling":
        if self.min_gap_s > self.max_span_s:
            raise ValueError(
                f"min_gap_s ({self.min_gap_s}) must not exceed max_span_s ({self.max_span_s}): a "
                "middle frame out of order lies between the two from the tuple"
            )
        return self


class ClipsSampling(Settings):
    """Runs of frames at a fixed spacing, one or several from one video."""

    kind: Literal["clips"] = "clips"
    num_frames: int = Field(default=16, ge=1, le=512)
    """Frames in one clip."""
    spacing_s: Seconds = 0.1
    """Time between consecutive frames of a clip."""
    clips: int = Field(default=1, ge=1, le=16)
    """Clips of one video in one sample."""
    placement: Literal["anywhere", "in_order"] = "anywhere"
    """Clips drawn one by one, which may overlap, or one after another in time."""
    gap_s: Seconds = 0.5
    """in_order: time from the last frame of a clip to the first of the next."""
    interval_power: float = Field(default=1.0, ge=0, le=64)
    """anywhere, two clips: the time t between their beginnings has a density of (1 - t/T)^power,
    T the longest there is. 1 is what two independent draws have, and the best of CVRL (section
    3.3); 0 draws all distances equally often, more than 1 prefers near clips."""
    motion_weighted: bool = False
    """Draw clips with probability proportional to the motion in them, else uniformly."""
    per_video: int = Field(default=1, ge=1, le=10_000)
    """Samples drawn from one video in an epoch."""

    @model_validator(mode="after")
    def _interval(self) -> "ClipsSampling":
        pair = self.placement == "anywhere" and self.clips == 2 and not self.motion_weighted
        if self.interval_power != 1 and not pair:
            raise ValueError(
                f"interval_power ({self.interval_power}) is the law of two clips placed anywhere "
                "and not weighted by motion; leave it at 1 for others"
            )
        return self


class SpreadSampling(StackSettings):
    """Frames spread over the whole of one view, one from each of as many equal parts (TCC)."""

    kind: Literal["spread"] = "spread"
    num_frames: int = Field(default=20, ge=2, le=512)
    """Frames in one sample, distinct and in temporal order."""
    within: Literal["video", "shot"] = "video"
    """Whether the frames span the whole video, or one shot of it drawn by its length."""
    positive_s: Seconds | None = None
    """Add to every frame another one of the same shot within this time (TCC with a TCN term)."""
    per_video: int = Field(default=1, ge=1, le=10_000)
    """Samples drawn from one video in an epoch."""


class TracksSampling(Settings):
    """Patches of one track each, from shards that `marey mine --kind tracks` has written."""

    kind: Literal["tracks"] = "tracks"


Sampling = Annotated[
    FramesSampling
    | TimePairsSampling
    | ViewPairsSampling
    | TuplesSampling
    | ClipsSampling
    | SpreadSampling
    | TracksSampling,
    Field(discriminator="kind"),
]
