"""What can be set when a corpus is mined into shards: tracked patches, or planned samples."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from marey.configs import plugins
from marey.configs.base import Settings
from marey.configs.errors import UsageError
from marey.configs.load import check, override
from marey.configs.sampling import ByKind, Sampling, family, kinds
from marey.configs.schema import DataConfig
from marey.configs.tracking import tracker_options


class ImageConfig(Settings):
    """How pictures are stored in shards."""

    format: Literal["jpeg", "png"] = "jpeg"
    """JPEG is about eight times smaller; PNG keeps every value."""
    quality: int = Field(default=95, ge=1, le=100)
    """JPEG quality."""


class ProposalConfig(Settings):
    """Where tracks start."""

    kind: Literal["moving_objects", "moving_points", "random"] = "moving_objects"
    """moving_objects: groups of moving points; moving_points: the fixed-size window that holds the
    most of them (the paper's); random: anywhere."""
    every_s: float = Field(default=1.0, gt=0, le=3600)
    """Seconds between two frames in which tracks start."""
    max_boxes: int = Field(default=8, ge=1, le=256)
    """Maximum number of boxes started per frame."""


class QualityConfig(Settings):
    """Which tracks are kept. The first reason that holds is the one that is counted."""

    min_score: float | None = 0.3
    """Tracker response below which a track ends; unset: the tracker's own (correlation filters
    only)."""
    min_fb_iou: float = Field(default=0.6, ge=0, le=1)
    """Minimum IoU of the start box and the box that backward tracking returns to."""
    max_fb_error: float = Field(default=0.2, ge=0)
    """Maximum forward-backward error: distance of those boxes' centres, in box sizes."""
    min_appearance: float = Field(default=0.2, ge=-1, le=1)
    """Minimum correlation of the first and the last patch; below, it is probably another object."""
    max_appearance: float = Field(default=0.98, ge=-1, le=1)
    """Maximum correlation; above, the two patches are near-duplicates."""
    min_travel: float = Field(default=0.1, ge=0)
    """Minimum distance between the first and the last centre, in box widths."""
    max_travel: float = Field(default=2.0, gt=0)
    """Maximum distance; above, the tracker has probably drifted."""
    min_own_travel: float = Field(default=0.15, ge=0)
    """Minimum distance with the camera's motion removed, in box sizes; below, the box is on the
    background."""
    min_late_travel: float = Field(default=0.0, ge=0)
    """The same over the last third of the track; below, the box has probably drifted onto the
    background, or its object has stopped."""
    max_scale_rate: float = Field(default=1.5, gt=1)
    """Maximum change of the box's size per second, as a ratio."""
    min_inside: float = Field(default=0.98, ge=0, le=1)
    """Minimum share of the last box that lies inside the frame."""
    min_frames: int = Field(default=10, ge=2)
    """Minimum length of a track in frames."""


class TracksMining(Settings):
    """Patches of things that move, followed through time (Wang and Gupta, ICCV 2015, section 3)."""

    kind: Literal["tracks"] = "tracks"
    tracker: str = "kcf-hog-scale"
    """Name of the tracker (`marey track --help` lists them)."""
    tracker_settings: dict[str, int | float | bool | str | None] = Field(default_factory=dict)
    """Settings of the tracker (`marey track --tracker NAME --help` lists them), e.g.
    tracker_settings.rate=0.02."""
    device: str = "cpu"
    """Where correlation filters run: cpu, or cuda."""
    height: int = Field(default=448, ge=64, le=2160)
    """Short side in pixels that frames are resized to for tracking and cropping; never enlarged."""
    track_s: float = Field(default=1.0, gt=0, le=60)
    """Length of a track in seconds."""
    max_fps: float = Field(default=31.0, gt=0)
    """Maximum frame rate; of faster videos every second (third, ...) frame is used."""
    patches: int = Field(default=2, ge=2, le=64)
    """Patches stored per track, evenly spaced from its first to its last frame."""
    patch_size: int = Field(default=227, ge=16, le=1024)
    """Side of a stored patch in pixels."""
    context: float = Field(default=0.1, ge=0, le=1)
    """Margin around the box, as a share of its size, that is kept in the patch."""
    per_minute: int = Field(default=120, ge=1)
    """Maximum number of tracks kept per minute of a video, best first."""
    window_s: float = Field(default=6.0, gt=0, le=60)
    """Seconds decoded at a time."""
    unit_s: float = Field(default=300.0, gt=0)
    """Seconds of one video that make one file: the unit of work and of resuming."""
    proposals: ProposalConfig = ProposalConfig()
    """Where tracks start."""
    quality: QualityConfig = QualityConfig()
    """Which tracks are kept."""
    image: ImageConfig = ImageConfig()
    """How patches are stored."""

    @model_validator(mode="after")
    def _tracker(self) -> "TracksMining":
        tracker_options(self.tracker, self.tracker_settings, "tracker_settings.")
        return self

    @model_validator(mode="after")
    def _window(self) -> "TracksMining":
        if self.window_s < self.track_s:
            raise ValueError(
                f"window_s ({self.window_s}) must be at least track_s ({self.track_s})"
            )
        return self


class SamplesMining(Settings):
    """Planned samples (tuples, pairs, clips, frames), decoded once and stored."""

    sampling: Annotated[Sampling, ByKind()]
    """Which frames make a sample."""
    data: DataConfig = DataConfig()
    """Size and decoder of the frames."""
    epochs: int = Field(default=1, ge=1, le=1000)
    """Epochs that are stored: each draws other samples of the same videos."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the plan."""
    image: ImageConfig = ImageConfig()
    """How frames are stored."""

    @property
    def kind(self) -> str:
        """The family of the samples."""
        return self.sampling.kind


SHORT = {"pairs": "view_pairs"}
"""Words of `--kind` beside the names of the kinds, and what they stand for."""


def mining_settings(kind: str, words: list[str]) -> TracksMining | SamplesMining:
    """Checked settings of one kind. Raises UsageError for a kind that does not exist."""
    if not plugins.is_dotted(plugins.allow_name(kind)) and kind not in {*kinds(), *SHORT}:
        plugins.load()
        known = sorted({*kinds(), *SHORT})
        if kind not in known:
            raise UsageError(plugins.unknown("kind", kind, known))
    if kind == "tracks":
        return check(TracksMining, override({}, words))
    tree = override({"sampling": {"kind": SHORT.get(kind, kind)}}, words)
    chosen = tree["sampling"]
    if isinstance(chosen, dict) and (chosen["kind"] in kinds() or plugins.is_dotted(kind)):
        # by the kind's own settings, so that a mistake names the nearest of those
        own = family(chosen["kind"])
        chosen["kind"] = own.model_fields["kind"].default
        tree["sampling"] = check(own, chosen, "sampling.")
    return check(SamplesMining, tree)
