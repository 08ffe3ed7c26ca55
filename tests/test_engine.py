"""Ray is started again where a busy machine was too slow for it, and not for ever."""

import json

import pytest
import ray

from marey.configs.errors import MareyError
from marey.pipeline.runtime.engine import STARTS, TOO_BUSY, for_a_person, quiet_data, ray_session


def _slow(monkeypatch, times):
    """Let the next starts of Ray fail as they do on a busy machine; returns what was tried."""
    start, tried = ray.init, []

    def init(**options):
        tried.append(options)
        if len(tried) <= times:
            raise Exception(f"The current node {TOO_BUSY}.")
        return start(**options)

    monkeypatch.setattr(ray, "init", init)
    return tried


def test_a_slow_start_is_tried_again(monkeypatch):
    if ray.is_initialized():
        pytest.skip("an instance of this test process stands already")
    tried = _slow(monkeypatch, 1)
    with ray_session() as cpus:
        assert cpus >= 1
        assert ray.is_initialized()
    assert len(tried) == 2
    # Ray would find the node of a cluster on this machine, and refuse the CPUs that we count
    assert tried[1]["address"] == "local"


def test_starts_that_are_always_slow_end_with_an_error_for_a_person(monkeypatch):
    if ray.is_initialized():
        pytest.skip("an instance of this test process stands already")
    tried = _slow(monkeypatch, STARTS)
    with pytest.raises(MareyError, match="did not start"), ray_session():
        pass
    assert len(tried) == STARTS


def test_a_cluster_that_cannot_be_reached_is_named(monkeypatch):
    if ray.is_initialized():
        pytest.skip("an instance of this test process stands already")

    def init(**options):
        assert "address" not in options
        raise ConnectionError("Failed to connect")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with (
        pytest.raises(MareyError, match=r"RAY_ADDRESS=10\.0\.0\.1:6379.*RAY_AUTH_MODE"),
        ray_session(),
    ):
        pass


@pytest.mark.parametrize(
    ("job", "sent"),
    [
        ("", {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"runtime_env": {"env_vars": {"A": "1"}}}, {"OMP_WAIT_POLICY": "PASSIVE"}),
        # Ray refuses a second value of one variable
        ({"runtime_env": {"env_vars": {"OMP_WAIT_POLICY": "ACTIVE"}}}, None),
    ],
)
def test_the_processes_of_a_cluster_are_told_how_their_threads_wait(monkeypatch, job, sent):
    if ray.is_initialized():
        pytest.skip("an instance of this test process stands already")
    given = {}

    def init(**options):
        given.update(options)
        raise ConnectionError("Failed to connect")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if job:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    with pytest.raises(MareyError, match="no connection"), ray_session():
        pass
    assert given.get("runtime_env", {}).get("env_vars") == sent


def test_a_cluster_without_the_code_is_told_apart():
    wrapped = RuntimeError("The actor died\nModuleNotFoundError: No module named 'marey'\n")
    told = for_a_person(wrapped)
    assert told is not None
    assert "cannot import marey" in str(told)
    assert for_a_person(RuntimeError("something else")) is None


def test_a_deprecation_that_no_user_can_act_on_is_not_shown(recwarn):
    from ray.data import dataset

    quiet_data()
    dataset._warn_on_ray_remote_args_fn(dict)  # what `map_batches` calls first
    assert not [warned for warned in recwarn if "ray_remote_args_fn" in str(warned.message)]
