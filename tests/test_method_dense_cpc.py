"""Does dense CPC predict every place of the next maps, and contrast it with all that it should?"""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.temporal.dense_cpc import ConvGRUCell, DenseCPC, DenseCPCConfig
from tests.learning import draw_dots, train

BLOCKS, SEEN, GRID = 5, 3, 4


def _method(encoder: dict[str, Any] | None = None, **settings: Any) -> DenseCPC:
    torch.manual_seed(0)
    sampling = {"num_frames": BLOCKS, "spacing_s": 0.4, **settings.pop("sampling", {})}
    tree = {"block_frames": 1, "predicted": 2, "grid": GRID, "dim": 32, "augment": {}, **settings}
    config = DenseCPCConfig.model_validate({"sampling": sampling, **tree})
    network = EncoderConfig(stages=2, image_size=32, **(encoder or {}))
    return DenseCPC(Encoder(network), config)


def _clips(generator: torch.Generator, count: int = 4, frames: int = BLOCKS) -> Batch:
    """A dot crosses a picture whose texture differs from place to place and clip to clip."""
    step = torch.arange(frames) / frames
    x = 0.1 + 0.8 * torch.rand(count, 1, generator=generator) * step
    y = 0.2 + 0.6 * torch.rand(count, 1, generator=generator).expand(-1, frames)
    dots = draw_dots(x.flatten(), y.flatten(), torch.zeros(count * frames, 3)).float()
    coarse = torch.rand(count, 3, 8, 8, generator=generator) * 150
    texture = functional.interpolate(coarse, size=(32, 32), mode="bilinear").permute(0, 2, 3, 1)
    textured = dots.unflatten(0, (count, frames)) * 0.4 + texture[:, None]
    return {
        "frames": textured.clamp(0, 255).byte(),
        "time_s": (torch.arange(frames) * 0.4).expand(count, -1),
        "instance": torch.arange(count),
    }


def test_it_learns_which_place_is_which() -> None:
    method = _method(similarity="cosine", temperature=0.1)
    metrics = train(method, _clips, steps=30)
    assert method.chance["clip_top1"] == pytest.approx(1 / (2 * GRID**2))
    assert metrics["clip_top1"] > 0.15  # five times chance
    assert metrics["information"] > 1.5


def test_the_loss_equals_a_slow_formulation() -> None:
    method = _method().eval()
    batch = method.augment(_clips(torch.Generator().manual_seed(0), count=3))
    batch["instance"] = torch.tensor([4, 4, 9])
    batch["time_s"] = batch["time_s"] + torch.tensor([0.0, 0.1, 0.0])[:, None]
    with torch.no_grad():
        maps = method._maps(batch["images"])
        predicted = method._predict(maps[:, :SEEN])
        found = method(batch)
    terms = []
    for clip in range(3):
        for block in range(2):
            for place in range(GRID**2):
                row, column = divmod(place, GRID)
                query = predicted[clip, block, :, row, column].double()
                scores = []
                for c in range(3):
                    for b in range(2):
                        moments = batch["time_s"][[clip, c], [SEEN + block, SEEN + b]]
                        near = {clip, c} == {0, 1} and moments.diff().abs().item() < 0.39
                        for p in range(GRID**2):
                            if near and (c, b, p) != (clip, block, place):
                                continue  # the other clip of the video, 0.1 or 0.3 s away
                            key = maps[c, SEEN + b, :, p // GRID, p % GRID].double()
                            scores.append((query @ key).item())
                own = maps[clip, SEEN + block, :, row, column].double()
                total = torch.logsumexp(torch.tensor(scores, dtype=torch.float64), 0)
                terms.append(total.item() - (query @ own).item())
    assert found["loss"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)


def test_predictions_feed_on_predictions_and_see_no_later_block() -> None:
    method = _method().eval()
    images = torch.randn(1, BLOCKS, 3, 32, 32)
    later = images.clone()
    later[:, SEEN:] += 1
    with torch.no_grad():
        first, second = (method._predict(method._maps(i)[:, :SEEN]) for i in (images, later))
        torch.testing.assert_close(first, second)
        # with the second prediction computed by hand from the first
        state = torch.zeros(1, 32, GRID, GRID)
        for block in method._maps(images)[:, :SEEN].unbind(1):
            state = method.cell(torch.relu(block), state)
        torch.testing.assert_close(first[:, 0], method.predictor(state))
        state = method.cell(torch.relu(first[:, 0]), state)
        torch.testing.assert_close(first[:, 1], method.predictor(state))


def test_the_recurrence_keeps_places_apart() -> None:
    torch.manual_seed(0)
    cell = ConvGRUCell(6)
    entering, state = torch.randn(2, 6, 4, 4), torch.randn(2, 6, 4, 4)
    order = torch.randperm(16)

    def mixed(values: torch.Tensor) -> torch.Tensor:
        return values.flatten(2)[:, :, order].unflatten(2, (4, 4))

    torch.testing.assert_close(mixed(cell(entering, state)), cell(mixed(entering), mixed(state)))
    # a gated mixture of the old state and something in (-1, 1)
    assert (cell(entering, torch.zeros_like(state)).abs() < 1).all()


def test_a_memory_makes_predictions_convex_mixtures_of_its_slots() -> None:
    method = _method(memory=5).eval()
    with torch.no_grad():
        predicted = method._predict(torch.randn(2, SEEN, 32, GRID, GRID))
        slots = method.slots.weight[:, :, 0, 0].T  # [5, 32]
        rows = predicted.permute(0, 1, 3, 4, 2).reshape(-1, 32)
        mixture = torch.linalg.lstsq(slots.T, rows.T).solution
    torch.testing.assert_close(slots.T @ mixture, rows.T, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(mixture.sum(0), torch.ones(len(rows)), rtol=1e-3, atol=1e-3)
    assert (mixture > -1e-3).all()


def test_flat_cells_hold_nothing_to_predict() -> None:
    method = _method().eval()
    frames = _clips(torch.Generator().manual_seed(0), count=2)
    frames["frames"][0, :, :, :16] = 90  # the left half of the first clip
    textured = method._textured(method.augment(frames)["images"]).view(2, 2, GRID, GRID)
    assert textured[1].all()
    assert textured[0, :, :, 2:].all()
    assert not textured[0, :, :, :2].any()
    flat = {**frames, "frames": torch.full_like(frames["frames"], 90)}
    metrics = method(method.augment(flat))
    metrics["loss"].backward()
    assert metrics["valid"] == 0
    assert metrics["loss"] == 0
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters())


def test_predictions_that_say_nothing_hold_no_information() -> None:
    method = _method().eval()
    for parameter in method.predictor.parameters():
        torch.nn.init.zeros_(parameter)
    metrics = method(method.augment(_clips(torch.Generator().manual_seed(0))))
    assert metrics["loss"].item() == pytest.approx(math.log(4 * 2 * GRID**2), rel=1e-5)
    assert metrics["information"].item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("clip_frames", [1, 2])
def test_blocks_of_frames_go_through_encoders_of_images_and_of_clips(clip_frames: int) -> None:
    method = _method(
        encoder={"clip_frames": clip_frames, "clip_step_s": 0.4}, block_frames=2,
        sampling={"num_frames": 2 * BLOCKS, "clips": 2},
    )  # fmt: skip
    batch = _clips(torch.Generator().manual_seed(0), frames=4 * BLOCKS)
    metrics = method(method.augment(batch))
    metrics["loss"].backward()
    assert metrics["valid"] == 1
    assert all(p.grad is not None for p in method.parameters())


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="too short"):
        _method(predicted=BLOCKS)
    with pytest.raises(ValidationError, match="no negative"):
        _method(predicted=1, grid=1, negatives=["same_clip"])
    for words in ({"embedding_dim": 8}, {"pool": "spatial_softmax"}, {"pool_norm": True}):
        with pytest.raises(SettingError, match="never be trained"):
            _method(encoder=words)


def test_where_only_the_own_place_counts_nothing_but_time_is_to_be_told() -> None:
    own = _method(places="own", negatives=["same_clip"]).eval()
    batch = own.augment(_clips(torch.Generator().manual_seed(0)))
    found = own(batch)
    # of two predicted blocks one is the negative, in every place
    assert own.chance["clip_top1"] == pytest.approx(1 / 2)
    assert found["timeless_information"].item() == pytest.approx(0.0)
    told = math.log(2) - found["loss"].item()
    assert found["time_information"].item() == pytest.approx(told, abs=1e-5)
    every = _method(negatives=["same_clip"]).eval()(batch)
    assert every["timeless_information"].item() > 1.0
