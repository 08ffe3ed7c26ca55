"""Does MoCo v3 contrast both ways, scale its loss, and learn?"""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.augmentation.multi_crop import TwoCrops
from marey.models.contrastive.moco_v3 import MoCoV3, MoCoV3Config, batch_terms
from marey.models.encoders.encoder import Encoder
from marey.models.method import Progress
from marey.models.objectives.info_nce import NearDuplicates
from tests.joint_embedding import COLORS, dots
from tests.learning import train
from tests.moments import unseen


def _method(backbone: str = "tiny", **settings: object) -> MoCoV3:
    torch.manual_seed(0)
    encoder = EncoderConfig(
        backbone=backbone, stages=2, image_size=32, pool="spatial_softmax", pool_norm=True
    )
    config = MoCoV3Config.model_validate(
        {
            "head_dim": 32,
            "projection_dim": 16,
            "temperature": 0.2,
            "momentum": 0.9,
            "crops": TwoCrops(first=COLORS),
            **settings,
        }
    )
    return MoCoV3(Encoder(encoder), config)


def _unit(*shape: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(drawn.double(), dim=-1)


def test_it_learns_to_tell_images_apart() -> None:
    metrics = train(_method(), dots, steps=50)
    assert metrics["information"] > 0.7  # nats, of log(32) = 3.5
    assert metrics["top1"] > 0.1  # three times 1 in 32


def test_each_direction_is_cross_entropy_over_the_keys_of_the_batch() -> None:
    queries, keys = _unit(6, 8), _unit(6, 8, seed=1)
    wanted = functional.cross_entropy(queries @ keys.T / 0.2, torch.arange(6), reduction="none")
    torch.testing.assert_close(
        batch_terms(queries, keys, unseen(range(6)), 0.2, NearDuplicates()).loss, wanted
    )


def test_gradients_are_right() -> None:
    keys = _unit(4, 3, seed=1)
    loss = lambda q: batch_terms(q, keys, unseen(range(4)), 0.2, NearDuplicates()).loss  # noqa: E731
    assert torch.autograd.gradcheck(loss, _unit(4, 3).requires_grad_())


def test_the_loss_is_scaled_by_twice_the_temperature_and_symmetric() -> None:
    method = _method(alike=NearDuplicates(bits=None)).eval()
    batch = method.augment(dots(torch.Generator().manual_seed(0), 8))
    metrics = method(batch)
    crops = batch["images"]
    queries = [functional.normalize(method._query(crops[:, n].flatten(0, 1))) for n in (0, 1)]
    keys = [functional.normalize(method.key_encoder(crops[:, n].flatten(0, 1))) for n in (0, 1)]
    one_way = [
        functional.cross_entropy(queries[n] @ keys[1 - n].T / 0.2, torch.arange(8)) for n in (0, 1)
    ]
    torch.testing.assert_close(metrics["loss"], 2 * 0.2 * sum(one_way))
    swapped = method({**batch, "images": crops.flip(1)})
    torch.testing.assert_close(swapped["loss"], metrics["loss"])


def test_near_frames_of_one_video_do_not_repel() -> None:
    queries, keys = _unit(4, 8), _unit(4, 8, seed=1)
    where = unseen([3, 3, 3, 9], [0.0, 5.0, 30.0, 0.0])
    terms = batch_terms(queries, keys, where, 0.2, NearDuplicates())
    kept = [0, 2, 3]
    wanted = functional.cross_entropy((queries[:1] @ keys[kept].T) / 0.2, torch.tensor([0]))
    torch.testing.assert_close(terms.loss[0], wanted)
    alone = batch_terms(queries, keys, unseen([3] * 4), 0.2, NearDuplicates())
    assert not alone.counted.any()


def test_the_key_side_has_no_gradient_and_its_momentum_rises() -> None:
    method = _method(momentum=0.5).train()
    method(method.augment(dots(torch.Generator().manual_seed(0), 8)))["loss"].backward()
    assert all(p.grad is None for p in method.key_encoder.parameters())
    assert all(
        p.grad is not None
        for part in (method.encoder, method.projector, method.predictor)
        for p in part.parameters()
    )
    weight, copy = next(method.encoder.parameters()), next(method.key_encoder.parameters())
    with torch.no_grad():
        weight.add_(1)
    method.after_step(Progress(0, 10, 0))
    torch.testing.assert_close(copy, weight - 0.5)  # half of it
    method.after_step(Progress(10, 10, 0))
    torch.testing.assert_close(copy, weight - 0.5)  # nothing any more


@pytest.mark.parametrize(("layers", "norms"), [(2, [True, False]), (3, [True, True])])
def test_batch_norm_without_scale_ends_what_it_ends_in_the_paper(
    layers: Literal[2, 3], norms: list[bool]
) -> None:
    """Projector and predictor: of residual networks the projector alone, of transformers both."""
    method = _method(layers=layers)
    for part, normed in zip((method.projector, method.predictor), norms, strict=True):
        last = list(part.children())[-1]
        assert isinstance(last, nn.BatchNorm1d) is normed
        assert not normed or last.weight is None
    assert sum(isinstance(layer, nn.Linear) for layer in method.projector) == layers


def test_a_transformers_patch_projection_can_stay_as_it_began() -> None:
    method = _method(backbone="tiny_vit", frozen_patches=True)
    frozen = [n for n, p in method.encoder.named_parameters() if not p.requires_grad]
    assert frozen
    assert all("embed" in name for name in frozen)
    method(method.augment(dots(torch.Generator().manual_seed(0), 4)))["loss"].backward()
    assert all(p.grad is not None for p in method.encoder.parameters() if p.requires_grad)


def test_a_residual_network_has_no_patch_projection_to_freeze() -> None:
    with pytest.raises(SettingError, match=r"frozen_patches.*'tiny'"):
        _method(frozen_patches=True)
