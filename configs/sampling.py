"""Which frames make a sample: the settings of every family of samples, by its `kind`.

A method names one of these; `marey.pipeline.sampling` turns it into a sampler. Times are seconds.

A family that somebody adds subclasses `Sampling`, or one of the families below: then it may stand
wherever that one does (`method.sampling.kind=...`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    ModelWrapValidatorHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from marey.configs import plugins
from marey.configs.base import Settings

Seconds = Annotated[float, Field(gt=0, le=3600)]


class Sampling(Settings):
    """What the settings of all families of samples have in common.

    A family sets the default of `kind`, its name, and is made known with `register_kind` (which
    `marey.pipeline.sampling.register_sampler` does along with its sampler).
    """

    kind: str
    """Name of the family."""

    @model_validator(mode="wrap")
    @classmethod
    def _of_its_kind(cls, value: Any, handler: ModelWrapValidatorHandler[Sampling]) -> Sampling:
        """Another kind than the declared one is checked by that kind's settings, if they fit."""
        own = cls.model_fields["kind"].default
        if isinstance(value, Mapping) and value.get("kind", own) != own:
            return of_its_kind(value, cls)
        return handler(value)

    @model_serializer
    def _whole(self) -> dict[str, Any]:
        """All settings, also those that a declared family's subclass adds."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    @property
    def follows_motion(self) -> bool:
        """Whether samples are drawn where motion was measured."""
        return False

    @property
    def least_contrast(self) -> float:
        """Standard deviation of brightness, of 255, below which a frame is blank; 0: none is."""
        return 0.0

    @property
    def frames_in_a_row(self) -> int:
        """How many consecutive frames of a sample must be evenly spaced; 1: none."""
        return 1

    @property
    def labels_used(self) -> float:
        """Share of the labelled events whose labels a run may use."""
        return 1.0

    @property
    def part_labelled(self) -> float | None:
        """Fraction of an epoch's samples that have a label; None leaves it to the data."""
        return None


_kinds: dict[str, type[Sampling]] = {}
S = TypeVar("S", bound=Sampling)


def register_kind(settings: type[S]) -> type[S]:
    """Class decorator: make a family's settings known by their `kind`.

    Raises TypeError for settings without a `kind`, or with that of others.
    """
    kind = settings.model_fields["kind"].default
    if not isinstance(kind, str):
        raise TypeError(f"{settings.__name__} must give its field `kind` a default: its name")
    known = _kinds.setdefault(kind, settings)
    if (known.__module__, known.__qualname__) != (settings.__module__, settings.__qualname__):
        raise TypeError(f"two kinds of samples are called {kind!r}: {known} and {settings}")
    _kinds[kind] = settings
    plugins.bring("sampling", kind, settings.__module__)
    return settings


def kinds(*families: type[Sampling]) -> list[str]:
    """Names of the known kinds of samples, or of those that may stand for these families."""
    wanted = families or (Sampling,)
    return [kind for kind, settings in _kinds.items() if issubclass(settings, wanted)]


def family(kind: Any, *families: type[Sampling]) -> type[Sampling]:
    """The settings of a kind, or those at a dotted name (`package.module:Settings`).

    families: what it has to be, or to extend; by default any. Raises ValueError, naming the
    nearest, when there is none that fits.
    """
    wanted = families or (Sampling,)
    if plugins.is_dotted(kind):
        found = plugins.resolve(kind, "kind of samples")
        if not (isinstance(found, type) and issubclass(found, wanted)):
            names = " or ".join(one.__name__ for one in wanted)
            raise ValueError(f"{kind} is {found!r}; settings that extend {names} are needed here")
        return found
    if kind not in kinds(*families):
        plugins.load()
    fits = kinds(*families)
    if kind not in fits:
        raise ValueError(plugins.unknown("kind of samples", str(kind), fits))
    return _kinds[kind]


def of_its_kind(value: Mapping[str, Any], *families: type[Sampling]) -> Sampling:
    """A group of settings, checked by the settings of its `kind`; see `family`."""
    found = family(value["kind"], *families)
    return found.model_validate({**value, "kind": found.model_fields["kind"].default})


class ByKind:
    """Annotation of a field of several families (`Annotated[A | B, ByKind()]`): `kind` decides."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        families = get_args(source) or (source,)

        def validate(value: Any) -> Sampling:
            if isinstance(value, families):
                return value
            if not isinstance(value, Mapping):
                raise ValueError("a group of settings, not a value")
            if "kind" not in value:
                raise ValueError(f"`kind` is missing; known are {', '.join(kinds(*families))}")
            return of_its_kind(value, *families)

        return core_schema.no_info_plain_validator_function(validate)


@register_kind
class FramesSampling(Sampling):
    """Single frames (or images of a folder or table), stratified over a video's duration."""

    kind: str = "frames"
    per_video: int = Field(default=1, ge=1, le=10_000)
    """Frames drawn per video and epoch, one from each of as many equal time bins."""
    min_contrast: float = Field(default=3.0, ge=0, le=127)
    """Frames and images whose brightness has a lower standard deviation than this, of 255, are
    refused as `blank`: fades, black frames."""
    labelled_share: float = Field(default=1.0, ge=0, le=1)
    """Fraction of the labelled videos (or images) whose labels are used: always the same ones, and
    those of a smaller fraction are a subset of those of a larger one."""
    labelled_part: float | None = Field(default=None, gt=0, lt=1)
    """Fraction of an epoch's samples that have a label: where fewer have one, labelled videos are
    sampled more often (S4L: 0.5). Unset: everything once per epoch."""

    @property
    def least_contrast(self) -> float:
        """See `Sampling`."""
        return self.min_contrast

    @property
    def labels_used(self) -> float:
        """See `Sampling`."""
        return self.labelled_share

    @property
    def part_labelled(self) -> float | None:
        """See `Sampling`."""
        return self.labelled_part


class StackSettings(Sampling):
    """Stacks of frames in place of single ones (multi-frame TCN, Dwibedi et al. 2018)."""

    stack: int = Field(default=1, ge=1, le=64)
    """Frames per time: the one shown then and those before it, never across a cut; above 1 for an
    encoder of clips (`encoder.clip_frames`)."""
    stack_s: Seconds = 0.1
    """Time between the frames of a stack (`encoder.clip_step_s`), rounded to whole frames."""

    @property
    def look_back_s(self) -> float:
        """Time from the first frame of a stack to its last."""
        return (self.stack - 1) * self.stack_s


@register_kind
class TimePairsSampling(StackSettings):
    """Frame pairs close in time within one view (TCN, single-view)."""

    kind: str = "time_pairs"
    pairs: int = Field(default=16, ge=2, le=512)
    """Anchor/positive pairs per sample, all from one view of one video."""
    positive_s: Seconds = 0.2
    """A positive lies within this time of its anchor (6 frames at 29 fps in the paper)."""
    negative_s: Seconds = 0.4
    """Frames farther than this are negatives; the band between is ignored."""
    window_s: Seconds = 20.0
    """All frames of a sample come from one window of this length, longer than `negative_s`: a
    shorter one in a shorter shot, a longer one where it holds fewer frames than `pairs`."""
    per_video: int = Field(default=1, ge=1, le=10_000)
    """Samples drawn per video and epoch."""

    @model_validator(mode="after")
    def _margin(self) -> TimePairsSampling:
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
                f"({self.look_back_s:g} s), or stacks that are negatives of each other share frames"
            )
        return self


@register_kind
class ViewPairsSampling(StackSettings):
    """Frame pairs at one time from two synchronised views (TCN, multi-view, section 3.1)."""

    kind: str = "view_pairs"
    pairs: int = Field(default=16, ge=1, le=512)
    """Distinct times per sample, farther apart than a stack is long; each gives one anchor and one
    positive from another view."""
    window_s: Seconds = 20.0
    """All times of a sample come from one window of at most this length."""
    anchors: Literal["any_view", "one_view", "first_view"] = "any_view"
    """Draw the ordered pair of views for every time (any_view) or once per sample (one_view), or
    always take the first two in the order of their names (first_view: stereo, the left camera's
    name first)."""
    per_event: int = Field(default=1, ge=1, le=10_000)
    """Samples drawn per synchronised event and epoch."""


@register_kind
class TuplesSampling(Sampling):
    """Ordered and misordered three-frame tuples in windows of high motion (Shuffle and Learn)."""

    kind: str = "tuples"
    max_span_s: Seconds = 2.0
    """Longest time between the first and last frame of a tuple (60 frames in the paper)."""
    min_gap_s: Seconds = 0.5
    """Shortest time from a negative's middle frame to the tuple (15 frames in the paper)."""
    negative_share: float = Field(default=0.75, gt=0, lt=1)
    """Share of the tuples whose middle frame is out of order."""
    per_video: int = Field(default=8, ge=1, le=10_000)
    """Tuples drawn per video and epoch."""
    motion_weighted: bool = True
    """Draw windows with probability proportional to their motion, else uniformly."""
    inner: bool = False
    """Add a fourth frame: the middle frame in order. Compared with the one out of order, it shows
    whether that one looks as if it were in order, as in cyclic motion."""

    @property
    def follows_motion(self) -> bool:
        """See `Sampling`."""
        return self.motion_weighted

    @model_validator(mode="after")
    def _reach(self) -> TuplesSampling:
        if self.min_gap_s > self.max_span_s:
            raise ValueError(
                f"min_gap_s ({self.min_gap_s}) must not exceed max_span_s ({self.max_span_s}): a "
                "middle frame out of order lies between the two from the tuple"
            )
        return self


@register_kind
class ClipsSampling(Sampling):
    """Runs of frames at a fixed spacing, one or several from one video."""

    kind: str = "clips"
    num_frames: int = Field(default=16, ge=1, le=512)
    """Frames per clip."""
    spacing_s: Seconds = 0.1
    """Time between consecutive frames of a clip."""
    clips: int = Field(default=1, ge=1, le=16)
    """Clips per sample, all of one video."""
    placement: Literal["anywhere", "in_order"] = "anywhere"
    """anywhere: clips drawn independently, which may overlap; in_order: one after another."""
    gap_s: Seconds = 0.5
    """in_order: time from the last frame of a clip to the first of the next."""
    interval_power: float = Field(default=1.0, ge=0, le=64)
    """anywhere, two clips: the time t between their beginnings has a density of (1 - t/T)^power,
    T the longest there is. 1 is what two independent draws have, and the best of CVRL (section
    3.3); 0 draws all distances equally often, more than 1 prefers near clips."""
    motion_weighted: bool = False
    """Draw clips with probability proportional to the motion in them, else uniformly."""
    per_video: int = Field(default=1, ge=1, le=10_000)
    """Samples drawn per video and epoch."""

    @property
    def follows_motion(self) -> bool:
        """See `Sampling`."""
        return self.motion_weighted

    @property
    def frames_in_a_row(self) -> int:
        """See `Sampling`."""
        return self.num_frames

    @model_validator(mode="after")
    def _interval(self) -> ClipsSampling:
        pair = self.placement == "anywhere" and self.clips == 2 and not self.motion_weighted
        if self.interval_power != 1 and not pair:
            raise ValueError(
                f"interval_power ({self.interval_power}) is the law of two clips placed anywhere "
                "and not weighted by motion; leave it at 1 for others"
            )
        return self


@register_kind
class SpreadSampling(StackSettings):
    """Frames spread over one view, one from each of as many equal segments (TCC)."""

    kind: str = "spread"
    num_frames: int = Field(default=20, ge=2, le=512)
    """Frames per sample, distinct and in temporal order."""
    within: Literal["video", "shot"] = "video"
    """Whether the frames span the whole video, or one shot, drawn in proportion to its length."""
    positive_s: Seconds | None = None
    """Add to every frame a positive: another frame of its shot within this time (TCC with a TCN
    term)."""
    per_video: int = Field(default=1, ge=1, le=10_000)
    """Samples drawn per video and epoch."""


@register_kind
class FramePairsSampling(Sampling):
    """Two frames of one shot, the earlier one first, some time apart (SiamMAE)."""

    kind: str = "frame_pairs"
    min_gap_s: Seconds = 4 / 30
    """Shortest time between the two: 4 frames at 30 fps (CropMAE's code for SiamMAE)."""
    max_gap_s: Seconds = 48 / 30
    """Longest time between the two: 48 frames at 30 fps (the same)."""
    per_video: int = Field(default=1, ge=1, le=10_000)
    """Pairs drawn per video and epoch."""

    @model_validator(mode="after")
    def _ordered(self) -> FramePairsSampling:
        if self.max_gap_s < self.min_gap_s:
            raise ValueError(
                f"max_gap_s ({self.max_gap_s:g}) must be at least min_gap_s ({self.min_gap_s:g})"
            )
        return self


@register_kind
class TracksSampling(Sampling):
    """Patches of one track each, from shards that `marey mine` or `marey train` has mined."""

    kind: str = "tracks"
