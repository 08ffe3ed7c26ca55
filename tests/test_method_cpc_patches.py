"""Does CPC on patches predict only what its context has not seen, and learn?"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.contrastive.cpc_patches import (
    CPCPatches,
    CPCPatchesConfig,
    RowContext,
    cut_grid,
    grid_side,
    keep_one_channel,
    patch_terms,
    target_numbers,
)
from marey.models.encoders.encoder import Encoder
from tests.learning import train


def _method(image_size: int = 32, norm: str = "layer", **settings: object) -> CPCPatches:
    torch.manual_seed(0)
    encoder = EncoderConfig.model_validate({"stages": 2, "image_size": image_size, "norm": norm})
    config = CPCPatchesConfig.model_validate(
        {
            "patch": 8,
            "stride": 8,
            "context_layers": 2,
            "context_dim": 32,
            "target_dim": 16,
            "prediction_scale": 1.0,
            "augment": AugmentConfig(),
            **settings,
        }
    )
    return CPCPatches(Encoder(encoder), config)


def _columns(generator: torch.Generator, count: int = 16) -> Batch:
    """Each image has four columns of its own colours: what is above tells what is below."""
    colors = torch.rand(count, 1, 4, 3, generator=generator).repeat_interleave(8, dim=2)
    noise = 0.1 * torch.randn(count, 32, 32, 3, generator=generator)
    return {
        "frames": ((colors + noise).clamp(0, 1) * 255).byte()[:, None],
        "time_s": torch.zeros(count, 1),
        "instance": torch.arange(count),
    }


@pytest.mark.parametrize("directions", ["down", "all"])
def test_it_learns_to_predict_patches(directions: str) -> None:
    metrics = train(_method(directions=directions), _columns, steps=40)
    assert metrics["information"] > 0.7  # nats, of log(256) = 5.5
    assert metrics["top1"] > 0.04  # ten times 1 in 256


def test_predictions_that_know_nothing_cost_the_log_of_all_patches() -> None:
    method = _method(directions="all")
    for predictions in method.predictions:
        for prediction in predictions:
            torch.nn.init.zeros_(prediction.weight)
    metrics = method(method.augment(_columns(torch.Generator().manual_seed(0))))
    assert metrics["loss"].item() == pytest.approx(math.log(16 * 4 * 4), rel=1e-5)
    assert metrics["information"].item() == pytest.approx(0, abs=1e-5)


def test_the_right_patch_lies_k_rows_ahead_in_every_direction() -> None:
    images, grid = torch.tensor([3, 5]), 4
    down = target_numbers(images, grid, ahead=2)
    for n, image in enumerate(images.tolist()):
        for row in range(grid - 2):
            for column in range(grid):
                wanted = image * grid * grid + (row + 2) * grid + column
                assert down[n, row, column] == wanted
    assert down.shape == (2, grid - 2, grid)
    # A grid of its own numbers, turned with the contexts, must meet its labels.
    numbers = torch.arange(grid * grid).view(1, grid, grid)
    for turn in range(4):
        turned = numbers.rot90(turn, (1, 2))
        labels = target_numbers(torch.tensor([0]), grid, 1, turn)
        assert torch.equal(labels, turned[:, 1:])
    steps = []
    for turn in range(4):
        contexts = numbers.rot90(turn, (1, 2))[:, :-1]
        steps.append(int((target_numbers(torch.tensor([0]), grid, 1, turn) - contexts).unique()))
    assert sorted(steps) == [-4, -1, 1, 4]  # up, left, right and down in the image


@pytest.mark.parametrize("turn", range(4))
def test_a_context_sees_no_row_below_its_own(turn: int) -> None:
    torch.manual_seed(0)
    context = RowContext(6, 8, layers=3)
    grid = torch.randn(1, 6, 5, 5)
    turned = grid.rot90(turn, (2, 3))
    straight = context(turned)
    for row in range(5):
        changed = turned.clone()
        changed[:, :, row] += 1.0
        difference = (context(changed) - straight).abs().amax(dim=(0, 1, 3))
        assert (difference[:row] == 0).all()
        assert difference[row] > 0
        assert (difference[row + 1 : row + 4] > 0).all()  # and as far back as it has layers


@pytest.mark.parametrize(("image", "patch", "stride"), [(48, 16, 8), (32, 16, 8), (51, 16, 7)])
def test_no_pixel_is_shared_by_what_predicts_and_what_is_predicted(
    image: int, patch: int, stride: int
) -> None:
    """The first row that is predicted is also the nearest that shares nothing."""
    method = _method(image_size=image, patch=patch, stride=stride)
    pixels = torch.arange(float(image * image)).view(1, 1, image, image)
    grid = cut_grid(pixels, patch, stride)[0]
    assert len(grid) == method.grid == grid_side(image, patch, stride)
    for ahead in range(1, method.grid):
        shared = any(
            set(grid[: row + 1].flatten().tolist()) & set(grid[row + ahead].flatten().tolist())
            for row in range(method.grid - ahead)
        )
        assert (ahead in method.ahead) is not shared


def test_the_objective_is_cross_entropy_over_all_patches() -> None:
    generator = torch.Generator().manual_seed(0)
    guess = torch.randn(3, 5, 2, 4, generator=generator, dtype=torch.float64)
    targets = torch.randn(3, 16, 5, generator=generator, dtype=torch.float64)
    label = target_numbers(torch.arange(3), 4, 2)
    every = torch.ones(3, 3, dtype=torch.bool)
    terms = patch_terms(guess, targets, label, every)
    assert len(terms.loss) == 3 * (4 - 2) * 4
    number = 0
    for image in range(3):
        for row in range(2):
            for column in range(4):
                logits = targets.flatten(0, 1) @ guess[image, :, row, column]
                right = image * 16 + (row + 2) * 4 + column
                wanted = logits.logsumexp(0) - logits[right]
                torch.testing.assert_close(terms.loss[number], wanted)
                assert terms.hit[number] == (logits.argmax() == right)
                number += 1
    small = (guess[:2, :, :1, :2].clone().requires_grad_(), targets[:2, :4].requires_grad_())
    labels, pair = torch.tensor([[[2, 3]], [[6, 7]]]), torch.ones(2, 2, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda g, t: patch_terms(g, t, labels, pair).loss, small)


def test_patches_of_near_frames_do_not_repel_but_those_of_the_same_frame_do() -> None:
    method = _method().eval()
    batch = _columns(torch.Generator().manual_seed(0), count=3)
    batch["instance"] = torch.tensor([7, 7, 8])
    batch["time_s"] = torch.tensor([[0.0], [5.0], [0.0]])
    batch = method.augment(batch)
    embedded = method.encoder(batch["patches"].flatten(0, 4 - 1)).unflatten(0, (3, 4, 4))
    embedded = embedded.permute(0, 3, 1, 2)
    targets = method.target(embedded).flatten(2).transpose(1, 2)
    seen = method.contexts[0](embedded)
    losses = []
    for ahead, prediction in zip(method.ahead, method.predictions[0], strict=True):
        for image, others in ((0, [0, 2]), (1, [1, 2]), (2, [2, 0, 1])):
            guess = prediction(seen[image : image + 1, :, : 4 - ahead]).flatten(2)[0].T
            logits = guess @ targets[others].flatten(0, 1).T
            right = target_numbers(torch.tensor([0]), 4, ahead).flatten()
            losses.append(functional.cross_entropy(logits, right, reduction="sum"))
    counted = 3 * 4 * torch.tensor([4 - ahead for ahead in method.ahead])
    of_each = torch.stack(losses).view(3, 3).sum(dim=1) / counted
    torch.testing.assert_close(method(batch)["loss"], of_each.mean())


def test_a_patch_keeps_one_channel() -> None:
    patches = torch.rand(64, 3, 4, 4)
    assert torch.equal(keep_one_channel(patches, 0.0), patches)
    single = keep_one_channel(patches, 1.0)
    assert torch.equal(single[:, 0], single[:, 1])
    assert torch.equal(single[:, 0], single[:, 2])
    from_ = [(single[:, 0] == patches[:, channel]).all(dim=(1, 2)).sum() for channel in range(3)]
    assert sum(from_) == 64
    assert min(from_) > 5


def test_patches_are_varied_alone() -> None:
    frames = torch.full((2, 1, 32, 32, 3), 100, dtype=torch.uint8)
    batch = {"frames": frames, "time_s": torch.zeros(2, 1), "instance": torch.arange(2)}
    varied = AugmentConfig(jitter=1.0, brightness=0.5)
    torch.manual_seed(0)
    patches = _method(augment_patches=varied).augment(batch)["patches"]
    means = patches.mean(dim=(-3, -2, -1)).flatten()
    assert len(means.unique()) == 2 * 16
    assert patches.flatten(-2).std(dim=-1).max() < 1e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "batch"}, "encoder.norm=layer"),
        ({"patch": 8, "stride": 5}, "do not fill an image of 32 px"),
        ({"patch": 40}, "do not fill"),
        ({"patch": 24, "stride": 8}, "share pixels up to 2 rows apart"),
        ({"patch": 16, "stride": 8, "farthest": 1}, "reach only 1"),
    ],
)
def test_what_would_leak_or_predict_nothing_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        _method(**settings)


def test_images_alone_still_have_their_own_patches_as_negatives() -> None:
    method = _method()
    one = {key: value[:1] for key, value in _columns(torch.Generator().manual_seed(0)).items()}
    metrics = method(method.augment(one))
    assert metrics["valid"] == 1
    strict = _method(min_negatives=16)
    nothing: Tensor = strict(strict.augment(one))["loss"]
    assert nothing == 0
    assert nothing.requires_grad
