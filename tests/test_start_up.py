"""What a command loads before its first step: nothing that it does not use, nothing twice."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from marey.configs.schema import OptimizerConfig
from marey.pipeline.embedding import embed as embedding
from marey.pipeline.training.optim import build_optimizer, restore
from tests.corpora import encode_corpus

HEAVY = ("torch._dynamo", "sympy", "scipy", "sklearn", "torchvision", "timm", "ray")
"""Each is seconds and a hundred megabytes in every process that imports it."""
COUNTED = """
import json, sys
from marey.pipeline.cli.main import main
code = main(sys.argv[1:])
print(json.dumps([name for name in {heavy} if name in sys.modules]))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(encode_corpus(tmp_path_factory.mktemp("start") / "videos"))


def _loaded_by(*words: str) -> list[str]:
    code = COUNTED.format(heavy=HEAVY)
    shown = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    return json.loads(shown.stdout.splitlines()[-1])


def test_a_first_step_in_one_process_loads_nothing_that_it_does_not_use(index: str, tmp_path: Path):
    words = ["train", "simclr", "--data", index, "-o", str(tmp_path / "run"), "--engine", "local"]
    assert _loaded_by(*words, "trainer.steps=1", "trainer.batch_size=4") == []


def test_an_encoder_is_opened_once(index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []
    original = embedding.open_encoder

    def counted(encoder_run: str):
        opened.append(encoder_run)
        return original(encoder_run)

    monkeypatch.setattr(embedding, "open_encoder", counted)
    monkeypatch.setattr("marey.pipeline.embedding.embed_part.open_encoder", counted)
    embedding.embed("pixels", index, str(tmp_path / "embeddings"), engine="local")
    assert len(opened) == 1


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_optimisers_step_as_those_of_torch_and_load_their_state(
    name: Literal["adamw", "sgd", "lars"],
):
    config = OptimizerConfig(name=name, nesterov=True)

    def weights() -> torch.nn.Linear:
        torch.manual_seed(0)
        return torch.nn.Linear(8, 4)

    def trained(model: torch.nn.Linear, optimizer: torch.optim.Optimizer) -> np.ndarray:
        for step in range(4):
            data = torch.randn(6, 8, generator=torch.Generator().manual_seed(step))
            model(data).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return model.weight.detach().numpy().copy()

    model = weights()
    ours = build_optimizer(model, config)
    groups = [dict(group) for group in ours.param_groups]
    after = trained(model, ours)
    if name != "lars":  # torch has none
        of_torch = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
        peer = weights()
        theirs = [{**g, "params": _same(model, peer, g["params"])} for g in groups]
        assert np.array_equal(after, trained(peer, of_torch(theirs)))
    again = build_optimizer(weights(), config)
    restore(again, ours.state_dict())
    assert again.state_dict()["state"].keys() == ours.state_dict()["state"].keys()
    assert not any(p.requires_grad and p.grad_fn for g in ours.param_groups for p in g["params"])


def _same(
    model: torch.nn.Module, peer: torch.nn.Module, parameters: list[torch.nn.Parameter]
) -> list[torch.nn.Parameter]:
    """The parameters of `peer` that stand where these stand in `model`."""
    place = {id(p): name for name, p in model.named_parameters()}
    named = dict(peer.named_parameters())
    return [named[place[id(p)]] for p in parameters]
