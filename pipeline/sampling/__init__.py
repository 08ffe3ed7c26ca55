"""Which frames make a sample: pure plans over index rows, one file a family."""

from marey.configs.errors import InputError
from marey.configs.sampling import Sampling
from marey.pipeline.sampling.base import Sampler, SampleRequest, event_rng
from marey.pipeline.sampling.clips import ClipsSampler
from marey.pipeline.sampling.frames import FramesSampler
from marey.pipeline.sampling.spread import SpreadSampler
from marey.pipeline.sampling.time_pairs import TimePairsSampler
from marey.pipeline.sampling.tuples import TuplesSampler
from marey.pipeline.sampling.view_pairs import ViewPairsSampler

_FAMILIES = {
    "frames": FramesSampler,
    "time_pairs": TimePairsSampler,
    "view_pairs": ViewPairsSampler,
    "tuples": TuplesSampler,
    "clips": ClipsSampler,
    "spread": SpreadSampler,
}


def build_sampler(config: Sampling) -> Sampler:
    """The sampler of a method's sampling settings.

    Raises InputError for `tracks`, which no plan over index rows can find.
    """
    if config.kind == "tracks":
        raise InputError(
            "this method trains on tracked patches: first run `marey mine INDEX -o SHARDS "
            "--kind tracks` and give SHARDS as --data"
        )
    return _FAMILIES[config.kind](config)


__all__ = ["SampleRequest", "Sampler", "build_sampler", "event_rng"]
