"""How mining asks Ray for its machine: actors that track on GPUs share all of them."""

import contextlib
import math

import pytest
import ray.data

from marey.configs.errors import SettingError
from marey.pipeline.mining import mine


class _Asked(Exception):
    """Ends a run where it would start its actors."""


def _asked(monkeypatch, cpus: float, gpus: int, on_gpus: bool) -> dict:
    """What a run asks for each actor on a cluster of that size."""
    asked = {}

    class Blocks:
        def map_batches(self, stage, **options):
            asked.update(options)
            raise _Asked

    monkeypatch.setattr(mine, "ray_session", lambda: contextlib.nullcontext(cpus))
    monkeypatch.setattr(mine, "gpu_count", lambda: gpus)
    monkeypatch.setattr(ray.data, "from_blocks", lambda blocks: Blocks())
    with pytest.raises(_Asked):
        list(mine.run_on_ray(lambda: pytest.fail("made here"), on_gpus)([0, 1]))
    return asked


@pytest.mark.parametrize(("cpus", "gpus"), [(2, 1), (16, 1), (16, 2), (16, 3), (64, 8), (4, 8)])
def test_trackers_on_gpus_share_all_of_them(monkeypatch, cpus, gpus):
    asked = _asked(monkeypatch, cpus, gpus, True)
    share, actors = asked["num_gpus"], asked["compute"].max_size
    assert 0 < share <= 1
    side_by_side = math.floor(1 / share + 1e-9)  # on one GPU: none has parts of two
    assert actors / gpus <= side_by_side < actors / gpus + 1
    assert not _asked(monkeypatch, cpus, gpus, False)["num_gpus"]


def test_trackers_on_gpus_need_one(monkeypatch):
    monkeypatch.setattr(mine, "ray_session", lambda: contextlib.nullcontext(16.0))
    monkeypatch.setattr(mine, "gpu_count", lambda: 0)
    with pytest.raises(
        SettingError, match=r"device=cuda or data\.backend=.*, but the cluster has no GPU"
    ):
        list(mine.run_on_ray(lambda: pytest.fail("made here"), True)([0]))
