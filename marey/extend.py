"""What plugins build on: base classes, what they are given, and the functions that register them.

    from marey.extend import Method, MethodConfig, register_method

The names in `__all__` are public, like those of `marey`. Each is imported at first use, so that a
tracker or a sampler needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    # settings
    "marey.configs.base": "MethodConfig Settings",
    "marey.models.augmentation.augment": "AugmentConfig",
    # methods
    "marey.models.batch": "Batch replace_frames",
    "marey.models.method": "Corpus Method Progress register_method",
    # samplers, and what they look at
    "marey.configs.sampling": "ClipsSampling FramesSampling Sampling SpreadSampling "
    "TimePairsSampling TuplesSampling ViewPairsSampling",
    "marey.pipeline.data.events": "Event Video",
    "marey.pipeline.sampling.base": "SampleRequest count_views one_view register_sampler",
    "marey.pipeline.sampling.frame_numbers": "frame_time shots",
    # layouts
    "marey.pipeline.data.images": "Images cover",
    "marey.pipeline.data.index": "Index",
    "marey.pipeline.data.listing": "Listed register_listing",
    "marey.pipeline.data.reading": "Frames Lack Wanted no_frames",
    "marey.pipeline.data.source": "Source register_source",
    # decoders
    "marey.pipeline.video.backends": "Opening VideoDecoder register_decoder",
    "marey.pipeline.video.library_backends": "LibraryDecoder",
    # trackers
    "marey.configs.tracking": "TrackerSettings",
    "marey.trackers.tracker": "Job Tracker register_tracker",
    # evaluation
    "marey.pipeline.embedding.embeddings": "Embeddings",
    "marey.pipeline.evaluate.protocols": "Inputs register_protocol",
    # backbones
    "marey.models.encoders.any_network": "register_backbone",
    "marey.models.encoders.trunk": "Level Trunk",
    # errors
    "marey.configs.errors": "InputError MareyError SettingError",
}
"""Module -> the public names that it holds."""

__all__ = [
    "AugmentConfig",
    "Batch",
    "ClipsSampling",
    "Corpus",
    "Embeddings",
    "Event",
    "Frames",
    "FramesSampling",
    "Images",
    "Index",
    "InputError",
    "Inputs",
    "Job",
    "Lack",
    "Level",
    "LibraryDecoder",
    "Listed",
    "MareyError",
    "Method",
    "MethodConfig",
    "Opening",
    "Progress",
    "SampleRequest",
    "Sampling",
    "SettingError",
    "Settings",
    "Source",
    "SpreadSampling",
    "TimePairsSampling",
    "Tracker",
    "TrackerSettings",
    "Trunk",
    "TuplesSampling",
    "Video",
    "VideoDecoder",
    "ViewPairsSampling",
    "Wanted",
    "count_views",
    "cover",
    "frame_time",
    "no_frames",
    "one_view",
    "register_backbone",
    "register_decoder",
    "register_listing",
    "register_method",
    "register_protocol",
    "register_sampler",
    "register_source",
    "register_tracker",
    "replace_frames",
    "shots",
]

if TYPE_CHECKING:
    from marey.configs.base import MethodConfig, Settings
    from marey.configs.errors import InputError, MareyError, SettingError
    from marey.configs.sampling import (
        ClipsSampling,
        FramesSampling,
        Sampling,
        SpreadSampling,
        TimePairsSampling,
        TuplesSampling,
        ViewPairsSampling,
    )
    from marey.configs.tracking import TrackerSettings
    from marey.models.augmentation.augment import AugmentConfig
    from marey.models.batch import Batch, replace_frames
    from marey.models.encoders.any_network import register_backbone
    from marey.models.encoders.trunk import Level, Trunk
    from marey.models.method import Corpus, Method, Progress, register_method
    from marey.pipeline.data.events import Event, Video
    from marey.pipeline.data.images import Images, cover
    from marey.pipeline.data.index import Index
    from marey.pipeline.data.listing import Listed, register_listing
    from marey.pipeline.data.reading import Frames, Lack, Wanted, no_frames
    from marey.pipeline.data.source import Source, register_source
    from marey.pipeline.embedding.embeddings import Embeddings
    from marey.pipeline.evaluate.protocols import Inputs, register_protocol
    from marey.pipeline.sampling.base import SampleRequest, count_views, one_view, register_sampler
    from marey.pipeline.sampling.frame_numbers import frame_time, shots
    from marey.pipeline.video.backends import Opening, VideoDecoder, register_decoder
    from marey.pipeline.video.library_backends import LibraryDecoder
    from marey.trackers.tracker import Job, Tracker, register_tracker


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names.split():
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'marey.extend' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
