"""Are the objectives that no preset takes exact over two processes too?

`test_every_method.py` holds the presets to this; here are the other settings, with frames of one
video on both ranks, so that the ranks count unequal numbers of negatives.
"""

import pytest
import torch
from torch import Tensor

from marey.configs.encoder import EncoderConfig
from marey.models.batch import Batch
from marey.models.contrastive.cmc import CMC
from marey.models.contrastive.deep_infomax import DeepInfoMax
from marey.models.contrastive.instdisc import InstDisc
from marey.models.contrastive.local_aggregation import LocalAggregation
from marey.models.encoders.encoder import Encoder
from marey.models.method import Corpus, Method, Progress
from tests.two_processes import backward, gradients, in_two_processes, parallel

SAMPLES = 4
STEPS = 2
BANK = {"projection_dim": 8, "negatives": 6, "temperature": 0.2}
SETTINGS: dict[str, tuple[type[Method], dict]] = {
    "instdisc_nce": (InstDisc, {**BANK, "objective": "nce", "proximal": 1.0}),
    "instdisc_sampled": (InstDisc, {**BANK, "objective": "sampled_softmax"}),
    "cmc_nce": (CMC, {**BANK, "objective": "nce"}),
    "local_aggregation": (
        LocalAggregation,
        {**BANK, "warm_share": 0.5, "clusters": 3, "clusterings": 2, "background": 6},
    ),
    "infomax_jsd": (DeepInfoMax, {"estimator": "jsd", "score_dim": 16, "global_weight": 0.5}),
    "infomax_dv": (DeepInfoMax, {"estimator": "dv", "score_dim": 16, "global_weight": 0.5}),
}


def _build(name: str) -> Method:
    torch.manual_seed(0)
    kind, settings = SETTINGS[name]
    encoder = EncoderConfig(
        stages=3, image_size=32, norm="layer", input="lab_split" if kind is CMC else "rgb"
    )
    method = kind(Encoder(encoder), kind.Config.model_validate(settings))
    method.prepare(Corpus(places=12))
    return method


def _batch(method: Method, step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    batch = {
        "frames": torch.randint(0, 256, (SAMPLES, 1, 40, 40, 3), generator=generator).byte(),
        "instance": torch.tensor([0, 0, 0, 2]) + step,
        "place": torch.tensor([0, 1, 2, 7]) + step,
        "time_s": torch.tensor([[0.0], [5.0], [30.0], [0.0]]),
    }
    torch.manual_seed(step)
    with torch.no_grad():
        return method.augment(batch)


def _run(name: str) -> dict[str, Tensor]:
    """Loss and gradients of the last of a few steps, and the state after it."""
    method = _build(name).train()
    # batch norm of heads would see half the batch: its statistics are the trainer's affair
    for module in method.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
    model = parallel(method)
    found: dict[str, Tensor] = {}
    for step in range(STEPS):
        method.before_epoch(Progress(step, STEPS, step))
        batch = _batch(method, step)
        method.zero_grad()
        found[f"loss {step}"] = backward(model, batch)
        method.after_step(Progress(step + 1, STEPS, step))
    return (
        found
        | gradients(method)
        | {f"state {k}": v.clone() for k, v in method.state_dict().items()}
    )


def _work() -> dict[str, dict[str, Tensor]]:
    return {name: _run(name) for name in SETTINGS}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes computed on its half of the batches."""
    return in_two_processes(_work, tmp_path_factory.mktemp("gloo"))


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_have_losses_gradients_and_memories_of_one(ranks: list, name: str) -> None:
    alone = _run(name)
    for result in ranks:
        assert result[name].keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(result[name][key], value, rtol=1e-3, atol=1e-5, msg=key)
    memories = [key for key in alone if "bank." in key or "labels" in key or "partition" in key]
    assert bool(memories) is (not name.startswith("infomax"))
    for key in memories:
        assert torch.equal(ranks[0][name][key], ranks[1][name][key]), key
