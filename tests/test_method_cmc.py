"""Does CMC contrast each part of an image with the bank of the other, skip grey ones, and learn?"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.contrastive.cmc import CMC, CMCConfig
from marey.models.encoders.encoder import Encoder
from marey.models.method import Corpus, Progress
from tests.learning import draw_dots, train_on

PLACES = 48
STEP = Progress(1, 10, 0)


def _method(**settings: object) -> CMC:
    torch.manual_seed(0)
    encoder = EncoderConfig(stages=2, image_size=32, input="lab_split")
    config = CMCConfig.model_validate(
        {
            "objective": "softmax",
            "negatives": 64,
            "projection_dim": 16,
            "temperature": 0.2,
            "augment": AugmentConfig(crop_scale=(0.8, 1.0)),
            **settings,
        }
    )
    method = CMC(Encoder(encoder), config)
    method.prepare(Corpus(places=PLACES))
    return method


def _corpus() -> Batch:
    """Where the dot is, lightness and colour both show; the background's colour is its own."""
    generator = torch.Generator().manual_seed(0)
    x, y = 0.1 + 0.8 * torch.rand(2, PLACES, generator=generator)
    background = torch.tensor([[0.1, 0.2, 0.7]]).expand(PLACES, 3).clone()
    background[:, 1] = torch.rand(PLACES, generator=generator) * 0.7
    return {
        "frames": draw_dots(x, y, background)[:, None],
        "time_s": torch.zeros(PLACES, 1),
        "instance": torch.arange(PLACES),
        "place": torch.arange(PLACES),
    }


@pytest.mark.parametrize("objective", ["softmax", "nce"])
def test_lightness_and_colour_learn_to_find_each_other(objective: str) -> None:
    method = _method(objective=objective)
    metrics = train_on(method, _corpus(), epochs=25, size=24)
    assert metrics["information"] > 0.7  # nats, of log(48) = 3.9
    assert metrics["top1"] > 0.06  # three times 1 in 48


def _by_hand(method: CMC, batch: Batch) -> tuple[Tensor, Tensor]:
    lightness, color = method._embed(batch["images"].flatten(0, 1))
    place = batch["place"]
    return (
        functional.cross_entropy(lightness @ method.color_bank.rows.T / 0.2, place),
        functional.cross_entropy(color @ method.lightness_bank.rows.T / 0.2, place),
    )


def test_each_part_is_held_against_the_bank_of_the_other() -> None:
    method = _method().eval()
    batch = method.augment(_corpus())
    wanted = _by_hand(method, batch)
    torch.testing.assert_close(method(batch)["loss"], sum(wanted))


def test_each_direction_trains_one_trunk() -> None:
    """The loss from colour to lightness has no gradient for the trunk of lightness."""
    method = _method().eval()
    batch = method.augment(_corpus())
    _, from_color = _by_hand(method, batch)
    from_color.backward()
    parts = (method.encoder.trunk.lightness, method.encoder.trunk.color)
    lightness, color = (sum(p.grad.abs().sum().item() for p in part.parameters()) for part in parts)
    assert lightness == 0
    assert color > 0


def test_before_anything_is_known_the_loss_is_twice_log_n() -> None:
    metrics = _method(temperature=10.0)
    metrics = metrics(metrics.augment(_corpus()))
    assert metrics["loss"].item() == pytest.approx(2 * math.log(PLACES), abs=0.2)
    assert metrics["information"].item() == pytest.approx(0, abs=0.1)


def test_each_bank_takes_its_own_part_only() -> None:
    method = _method().train()
    batch = method.augment({key: value[:4] for key, value in _corpus().items()})
    lightness, color = (part.detach() for part in method._embed(batch["images"].flatten(0, 1)))
    before = method.lightness_bank.rows.clone(), method.color_bank.rows.clone()
    method(batch)
    method.after_step(STEP)
    for bank, old, new in zip(
        (method.lightness_bank, method.color_bank), before, (lightness, color), strict=True
    ):
        torch.testing.assert_close(bank.rows[:4], functional.normalize(old[:4] + new))
        assert torch.equal(bank.rows[4:], old[4:])


def test_grey_images_are_left_out() -> None:
    method = _method().eval()
    corpus = {key: value[:6] for key, value in _corpus().items()}
    gray = corpus["frames"][:2].float().mean(dim=-1, keepdim=True).round().byte()
    corpus["frames"] = torch.cat([gray.expand(-1, -1, -1, -1, 3), corpus["frames"][2:]])
    torch.manual_seed(0)
    batch = method.augment(corpus)
    assert batch["colorful"].flatten().tolist() == [False, False, True, True, True, True]
    wanted = sum(_by_hand(method, {key: value[2:] for key, value in batch.items()}))
    metrics = method(batch)
    torch.testing.assert_close(metrics["loss"], wanted)
    assert metrics["valid"].item() == pytest.approx(4 / 6)
    nothing = method({key: value[:2] for key, value in batch.items()})
    assert nothing["loss"] == 0
    assert nothing["loss"].requires_grad


def test_rows_of_near_moments_of_the_video_do_not_repel() -> None:
    method = _method().eval()
    batch = method.augment({key: value[:1] for key, value in _corpus().items()})
    for bank in (method.lightness_bank, method.color_bank):
        bank.instance[7] = 0
        bank.time_s[7] = 5.0
    kept = [n for n in range(PLACES) if n != 7]
    lightness, color = method._embed(batch["images"].flatten(0, 1))
    zero = torch.tensor([0])
    wanted = functional.cross_entropy(lightness @ method.color_bank.rows[kept].T / 0.2, zero)
    wanted += functional.cross_entropy(color @ method.lightness_bank.rows[kept].T / 0.2, zero)
    torch.testing.assert_close(method(batch)["loss"], wanted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": "rgb"}, "lab_split"),
        ({"pool": "spatial_softmax"}, "pool=average"),
        ({"embedding_dim": 8}, "embedding_dim"),
        ({"unit_norm": True}, "unit_norm"),
    ],
)
def test_encoders_whose_halves_are_not_the_two_parts_are_refused(
    settings: dict, message: str
) -> None:
    encoder = Encoder(EncoderConfig.model_validate({"input": "lab_split", **settings}))
    with pytest.raises(SettingError, match=message):
        CMC(encoder, CMCConfig())
