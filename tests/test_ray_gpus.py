"""What runs on GPUs is given to Ray as Ray wants it: on an instance that says it has some.

The processes find no CUDA device and work on the CPU; how they are asked for is real.
"""

import json

import pytest
import ray
import torch

from marey.configs.errors import DependencyError
from marey.configs.mining import mining_settings
from marey.configs.schema import DataConfig
from marey.pipeline.data.shards import Shards
from marey.pipeline.mining.mine import mine_corpus
from marey.pipeline.runtime.engine import _local_options, quiet_data, ray_session
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream import graph
from marey.pipeline.stream.plan import Position
from marey.pipeline.stream.resources import Needs, budget_on_gpus
from marey.pipeline.stream.samples import rows_of_shard, stream_here, stream_ray
from marey.pipeline.training import launch, prepared
from marey.pipeline.training.launch import prepare
from tests.corpora import encode_corpus
from tests.test_ray import DATA, check_embeddings, make, same
from tests.test_train import make_config

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the GPUs of this machine are real"),
]
GPUS = 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return str(encode_corpus(tmp_path_factory.mktemp("corpus"), events=3, num_frames=24))


@pytest.fixture(scope="module")
def cluster():
    ray.init(**_local_options(), num_gpus=GPUS, log_to_driver=False, logging_level="ERROR")
    quiet_data()
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_actors_that_decode_on_gpus_give_the_samples_of_one_process(corpus):
    source, plan = make(corpus, epochs=1)
    share = budget_on_gpus(2.0, 1, GPUS, None, trainers=True, backend="x")
    assert 0 < share.actor_gpus < share.trainer_gpus < 1
    here = list(stream_here(plan, source, DATA))
    there = list(rows_of_shard(stream_ray(plan, corpus, DATA, Position(), share).iterator(), 1))
    assert len(here) == len(there) == plan.total
    assert all(same(one, other) for one, other in zip(here, there, strict=True))


@pytest.mark.usefixtures("cluster")
def test_what_an_actor_lacks_is_told_in_a_line(corpus):
    """Whatever is missing here: torchcodec, FFmpeg, or the GPU itself."""
    _, plan = make(corpus, epochs=1)
    data = DataConfig(decode_size=32, backend="torchcodec-cuda")
    share = budget_on_gpus(2.0, 1, GPUS, 1, trainers=False, backend="x")
    with pytest.raises(DependencyError, match=r"^backend='torchcodec") as raised, ray_session():
        list(rows_of_shard(stream_ray(plan, corpus, data, Position(), share).iterator(), 1))
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("cluster")
def test_encoders_on_gpus_write_the_embeddings_of_one_process(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("marey.pipeline.embedding.embed.PART_FRAMES", 40)
    check_embeddings(corpus, tmp_path, 3 * 2 * 24)


@pytest.mark.usefixtures("cluster")
def test_miners_on_gpus_store_the_samples_of_one_process(corpus, tmp_path, monkeypatch):
    settings = mining_settings("frames", ["data.decode_size=32"])
    mine_corpus(corpus, str(tmp_path / "here"), settings, engine="local")
    shares = graph.shares
    on_gpus = [Needs(gpus_for="device=cuda")]
    monkeypatch.setattr(graph, "shares", lambda cpus, gpus, needs: shares(cpus, gpus, on_gpus))
    mine_corpus(corpus, str(tmp_path / "there"), settings)
    here, there = (Shards(str(tmp_path / name)) for name in ("here", "there"))
    assert len(here) > 0
    assert list(here.rows()) == list(there.rows())


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("backend", "gpus"), [("pyav", {"GPU": 1.0}), ("torchcodec-cuda", {"GPU": 0.75})]
)
def test_trainers_leave_room_on_their_gpus_for_decoders_alone(
    backend, gpus, corpus, tmp_path, monkeypatch
):
    import ray.train.torch

    asked = {}

    class Trainer:
        def __init__(self, worker, **settings):
            asked.update(settings)

        def fit(self):
            Folder(tmp_path / "run").write("summary.json", json.dumps({}).encode())

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Trainer)
    monkeypatch.setattr(prepared, "check_backend", lambda name: None)
    config = make_config(f"data.backend={backend}", "trainer.workers=2")
    launch.run_training(prepare(config, corpus, str(tmp_path / "run")))
    scaling = asked["scaling_config"]
    assert scaling.use_gpu
    assert {k: v for k, v in scaling.resources_per_worker.items() if k == "GPU"} == gpus
