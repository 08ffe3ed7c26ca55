"""Published recipes: what their files say, how large their networks are, that each can be built."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch

from marey.configs.load import preset_with, read_preset, run_config
from marey.configs.recipes import method_of, presets, published, recipe_of, recipes_of
from marey.configs.schema import RunConfig
from marey.models.encoders.encoder import Encoder
from marey.models.method import Method, find_method
from marey.pipeline.training.optim import build_optimizer, learning_rate, weight_decay

DOCS = Path(__file__).parents[1] / "docs"


def _config(name: str, *words: str) -> RunConfig:
    tree = preset_with(name, list(words))
    return run_config(tree, find_method(tree["name"]).Config)


@cache
def _built(name: str) -> Method:
    """The recipe's method without numbers."""
    config = _config(name)
    with torch.device("meta"):
        return find_method(config.name)(Encoder(config.encoder), config.method)


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", published())
def test_a_recipe_has_the_published_number_of_parameters(name: str) -> None:
    recipe = recipe_of(name)
    assert recipe is not None
    count, said = parameters(_built(name).encoder), recipe.parameters
    if said.endswith("M"):
        decimals = len(said.partition(".")[2]) - 1 if "." in said else 0
        assert f"{count / 1e6:.{max(0, decimals)}f}M" == said
    else:
        assert f"{count:,}" == said


def test_videomae_b_has_as_many_as_hugging_face_says() -> None:
    # 94.2 million with decoder (MODEL_ZOO.md: ViT-B); queries and values have a bias there
    assert f"{parameters(_built('videomae-b')) / 1e6:.1f}" == "94.2"


@pytest.mark.parametrize("name", published())
def test_a_recipe_stands_beside_a_small_preset_of_its_method(name: str) -> None:
    small = name.rpartition("-")[0]
    assert small in presets()
    assert name in recipes_of(small)
    assert method_of(small) == method_of(name)


@pytest.mark.parametrize("name", published())
def test_a_recipe_names_its_source_with_a_commit(name: str) -> None:
    recipe = recipe_of(name)
    assert recipe is not None
    assert re.search(r"arXiv \d{4}\.\d{5}", recipe.source)
    assert re.search(r"github\.com/[\w./-]+ @ [0-9a-f]{7}", recipe.source)
    assert recipe.hardware
    assert recipe.figure


@pytest.mark.parametrize("name", published())
def test_a_recipe_s_optimiser_can_be_built(name: str) -> None:
    config = _config(name)
    method = _built(name)
    optimizer = build_optimizer(method, config.trainer.optimizer, method.constant_lr)
    trained = sum(parameter.requires_grad for parameter in method.parameters())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == trained


def test_the_page_has_every_recipe_as_its_file_says() -> None:
    from benchmarks.recipes_table import row

    page = (DOCS / "recipes.md").read_text(encoding="utf-8")
    shown = [line for line in page.splitlines() if line.startswith("| `") and "arXiv" in line]
    assert shown == [row(name, parameters(_built(name).encoder)) for name in published()]


def test_what_is_known_of_a_recipe_is_no_setting() -> None:
    assert "recipe" not in read_preset("videomae-b")


def test_v_jepa_s_schedules_are_cut_off() -> None:
    optimizer = _config("v_jepa-l").trainer.optimizer
    total = 90_000
    assert learning_rate(optimizer, 0, total) == pytest.approx(2e-4)
    assert learning_rate(optimizer, 12_000, total) == pytest.approx(6.25e-4)
    # the half cosine from epoch 40 to epoch 375, at epoch 300
    done = (300 - 40) / (375 - 40)
    from math import cos, pi

    expected = 1e-6 + (6.25e-4 - 1e-6) * 0.5 * (1 + cos(pi * done))
    assert learning_rate(optimizer, total, total) == pytest.approx(expected, rel=1e-6)
    end = 0.4 + (0.04 - 0.4) * 0.5 * (1 + cos(pi / 1.25))
    assert weight_decay(optimizer, total, total) == pytest.approx(end)


def test_moco_steps_down_at_its_epochs() -> None:
    optimizer = _config("moco_v1-r50").trainer.optimizer
    rates = [learning_rate(optimizer, step, 200) for step in (0, 119, 120, 159, 160, 199)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])


def test_barlow_twins_has_two_rates() -> None:
    config = _config("barlow_twins-r50").trainer.optimizer
    optimizer = build_optimizer(_built("barlow_twins-r50"), config)
    scales = {group["vectors"]: group["scale"] for group in optimizer.param_groups}
    assert scales[True] * config.lr == pytest.approx(0.0384)
    assert scales[False] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batch"),
    [("videomae-b", 1), ("mae-b", 1), ("moco_v3-b", 2), ("dino-s", 1), ("clip_byol-slow", 1),
     ("moco_v2-r50", 2), ("barlow_twins-r50", 2), ("simsiam-r50", 2)],
)  # fmt: skip
def test_two_steps_at_full_width_are_finite(name: str, batch: int) -> None:
    from tests.every_method import full_batch

    config = _config(name)
    torch.manual_seed(0)
    method = find_method(config.name)(Encoder(config.encoder), config.method).train()
    optimizer = build_optimizer(method, config.trainer.optimizer, method.constant_lr)
    for step in range(2):
        raw = full_batch(config, samples=batch, seed=step)
        with torch.no_grad():
            augmented = method.augment(raw)
        loss = method(augmented)["loss"]
        loss.backward()
        assert torch.isfinite(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert all(torch.isfinite(parameter).all() for parameter in method.parameters())
