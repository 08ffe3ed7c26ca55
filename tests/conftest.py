"""Fixtures that several test files share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from marey.configs import plugins
from marey.pipeline.runtime import telling

# Processes that test side by side share the cores: more threads would only wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # in Ray's processes, which set their own

LONGEST = (
    "test_ray.py",
    "test_train_processes.py",
    "test_poison.py",
    "test_ray_gpus.py",
    "test_contrastive_distributed.py",
    "test_lockstep.py",
    "test_every_method.py",
)
"""Test files that take minutes: first, so that at the end no process waits for another."""

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development data beside the checkout; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the development data (../shared/data) is not beside this checkout")
    return SHARED


@pytest.fixture(autouse=True)
def told_by_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine each command of a test would say what it does: most tests ask what else."""
    monkeypatch.setattr(telling, "FIRST_S", float("inf"))
    monkeypatch.setattr(telling, "SILENCE_S", float("inf"))


@pytest.fixture(autouse=True)
def registered_for_this_test() -> Iterator[None]:
    """What a test registers is gone after it: the next one may ask whether a plugin is there."""
    before = dict(plugins._brought)
    yield
    for kind, name in plugins._brought.keys() - before.keys():
        if kind == "layout":
            from marey.pipeline.data.source import LAYOUTS

            LAYOUTS.forget(name)
        elif kind == "listing":
            from marey.pipeline.data.listing import LISTINGS

            LISTINGS.forget(name)
    plugins._brought.clear()
    plugins._brought.update(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; otherwise the order stays."""
    # what test files have registered is for themselves: no other process has to import them
    plugins._brought.clear()
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))
