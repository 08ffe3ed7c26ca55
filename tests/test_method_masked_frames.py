"""Does the masked frame model tell hidden moments from the others, better than by copying?"""

import pytest
import torch

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.configs.sampling import ClipsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.context.masked_frames import (
    MaskedFrames,
    MaskedFramesConfig,
    distinct,
    nearest_visible,
)
from marey.models.encoders.encoder import Encoder
from tests.learning import draw_dots, train

LENGTH = 12
SPACING = 0.5


def _method(**settings: object) -> MaskedFrames:
    torch.manual_seed(0)
    encoder = EncoderConfig(stages=2, image_size=32, pool="spatial_softmax", pool_norm=True)
    config = MaskedFramesConfig.model_validate(
        {
            "sampling": ClipsSampling(num_frames=LENGTH, spacing_s=SPACING),
            "branching": 4,
            "fit_frames": 512,
            "fit_steps": 2,
            "width": 64,
            "augment": AugmentConfig(),
            **settings,
        }
    )
    return MaskedFrames(Encoder(encoder), config)


def _clips(generator: torch.Generator, ordered: bool = True, count: int = 8) -> Batch:
    """A dot that goes round four corners, from another one in each clip; or jumps among them."""
    steps = torch.arange(LENGTH)[None, :]
    corner = (steps + torch.randint(4, (count, 1), generator=generator)) % 4
    if not ordered:
        corner = torch.randint(4, (count, LENGTH), generator=generator)
    jitter = 0.05 * torch.rand(2, count, LENGTH, generator=generator)
    x = torch.tensor([0.2, 0.8, 0.8, 0.2])[corner] + jitter[0]
    y = torch.tensor([0.2, 0.2, 0.8, 0.8])[corner] + jitter[1]
    frames = draw_dots(x.flatten(), y.flatten(), torch.full((count * LENGTH, 3), 0.2))
    return {
        "frames": frames.unflatten(0, (count, LENGTH)),
        "time_s": 7 + SPACING * steps.float().expand(count, -1),
        "instance": torch.arange(count),
    }


def test_it_learns_hidden_words_and_embeddings_better_than_copying_does() -> None:
    method = _method()
    metrics = train(method, _clips, steps=100)
    assert method.chance["accuracy"] == 1 / 4
    assert metrics["accuracy"] > metrics["copy_accuracy"] + 0.4
    assert metrics["accuracy"] > metrics["most_frequent_accuracy"] + 0.25
    assert metrics["information"] > 0.3  # nats; one in four of the candidates look the same
    assert metrics["information"] > metrics["copy_information"]
    assert metrics["top1"] > metrics["copy_top1"]


def test_frames_without_order_cannot_be_told() -> None:
    metrics = train(_method(), lambda g: _clips(g, ordered=False), steps=40)
    assert metrics["accuracy"] < metrics["most_frequent_accuracy"] + 0.1
    assert metrics["information"] < 0.15


def test_the_losses_are_those_of_slow_formulations() -> None:
    method = _method(temperature=0.2).eval()
    batch = method.augment(_clips(torch.Generator().manual_seed(0), count=4))
    batch["instance"] = torch.tensor([0, 1, 1, 2])
    batch["time_s"][2] += 40  # another part of video 1
    with torch.no_grad():
        values = method(batch)
        embeddings = method.encoder(batch["images"].flatten(0, 1))
        inputs = method.project(embeddings).view(4, LENGTH, -1)
        shown = torch.stack([inputs[b][batch["source"][b]] for b in range(4)])
        shown[batch["hidden"]] = method.unseen
        elapsed = (batch["time_s"] - batch["time_s"][:, :1]) * 10
        waves = 10_000.0 ** -(torch.arange(32) / 32)
        angles = elapsed[..., None] * waves
        outputs = method.blocks(shown + torch.cat([angles.sin(), angles.cos()], dim=2))
        logits = method.word(outputs).double()
        answers = torch.nn.functional.normalize(method.regress(outputs).double(), dim=2)
    keys = torch.nn.functional.normalize(embeddings.double(), dim=1).view(4, LENGTH, -1)
    words, contrast = [], []
    for b, t in batch["selected"].nonzero().tolist():
        words.append(-logits[b, t].log_softmax(0)[batch["tokens"][b, t]])
        own = (answers[b, t] @ keys[b, t] / 0.2).exp()
        rest = 0.0
        for c in range(4):
            for s in range(LENGTH):
                same = batch["instance"][b] == batch["instance"][c]
                far = (batch["time_s"][b, t] - batch["time_s"][c, s]).abs() > 2 * SPACING + 1e-2
                if (same and far) or (not same and batch["selected"][c, s]):
                    rest = rest + (answers[b, t] @ keys[c, s] / 0.2).exp()
        contrast.append((own + rest).log() - own.log())
    assert values["token_loss"].item() == pytest.approx(torch.stack(words).mean().item(), abs=1e-5)
    assert values["contrast_loss"].item() == pytest.approx(
        torch.stack(contrast).mean().item(), abs=1e-5
    )
    assert values["loss"].item() == pytest.approx(
        values["token_loss"].item() + values["contrast_loss"].item(), abs=1e-5
    )


def test_hidden_frames_are_not_seen() -> None:
    method = _method(contrast_weight=0).eval()
    batch = method.augment(_clips(torch.Generator().manual_seed(0), count=4))
    blank = torch.where(
        batch["hidden"][..., None, None, None],
        torch.randn_like(batch["images"]),
        batch["images"],
    )
    # another place that shows a hidden frame is not what is tested here
    own = torch.arange(LENGTH).expand(4, -1)
    batch = {**batch, "source": own}
    with torch.no_grad():
        assert torch.equal(method(batch)["loss"], method({**batch, "images": blank})["loss"])


def test_a_hidden_frame_is_a_target_without_gradient() -> None:
    method = _method().eval()
    batch = method.augment(_clips(torch.Generator().manual_seed(0), count=4))
    own = torch.arange(LENGTH).expand(4, -1)
    images = batch["images"].clone().requires_grad_()
    method({**batch, "source": own, "images": images})["loss"].backward()
    size = images.grad.flatten(2).abs().sum(2)
    assert (size[batch["hidden"]] == 0).all()
    assert (size[~batch["hidden"]] > 0).all()


def test_only_elapsed_seconds_count() -> None:
    method = _method().eval()
    batch = method.augment(_clips(torch.Generator().manual_seed(0), count=4))
    with torch.no_grad():
        loss = method(batch)["loss"]
        later = method({**batch, "time_s": batch["time_s"] + 64})["loss"]
        slower = method({**batch, "time_s": 2 * batch["time_s"]})["loss"]
    torch.testing.assert_close(loss, later)
    assert not torch.isclose(loss, slower)


def test_a_clip_that_stands_still_is_refused_and_gives_no_gradient() -> None:
    method = _method()
    moving = _clips(torch.Generator().manual_seed(0), count=4)
    batch = method.augment(moving)
    for tokens, refused in (([0] * 11 + [1], 0.25), ([0] * 10 + [1, 2], 0.0)):
        changed = {**batch, "tokens": batch["tokens"].clone()}
        changed["tokens"][1] = torch.tensor(tokens)
        assert method(changed)["refused"].item() == refused
    still = {**batch, "tokens": torch.zeros_like(batch["tokens"])}
    metrics = method(still)
    metrics["loss"].backward()
    assert metrics["loss"] == 0
    assert metrics["refused"] == 1
    assert all(p.grad is not None and (p.grad == 0).all() for p in method.encoder.parameters())


def test_targets_and_the_first_encoder_have_no_gradient_and_never_change() -> None:
    method = _method().train()
    before = {name: value.clone() for name, value in method.first.state_dict().items()}
    method(method.augment(_clips(torch.Generator().manual_seed(0))))["loss"].backward()
    assert all(p.grad is None for p in method.first.parameters())
    after = method.first.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_random_frame_is_another_frame_of_the_clip_where_bert_wants_one() -> None:
    method = _method(mask_ratio=0.5)
    batch = method.augment(_clips(torch.Generator().manual_seed(0), count=200))
    own = torch.arange(LENGTH).expand(200, -1)
    moved = batch["source"] != own
    assert not (moved & (batch["hidden"] | ~batch["selected"])).any()
    assert moved.sum() / batch["selected"].sum() == pytest.approx(0.1, abs=0.04)
    assert batch["hidden"].sum() / batch["selected"].sum() == pytest.approx(0.8, abs=0.05)
    assert (batch["selected"].sum(1) == LENGTH // 2).all()


def test_words_of_change_ignore_what_a_clip_looks_like() -> None:
    method = _method(words_of="change", fit_steps=1)
    batch = _clips(torch.Generator().manual_seed(0))
    still = {**batch, "frames": batch["frames"][:, :1].expand(-1, LENGTH, -1, -1, -1)}
    method.augment(batch)
    assert len(method.augment(still)["tokens"].unique()) == 1
    frames = _method(fit_steps=1)
    frames.augment(batch)
    assert len(frames.augment(still)["tokens"].unique()) > 1


def test_the_nearest_visible_frame_and_the_count_of_words() -> None:
    time_s = torch.tensor([[0.0, 1, 2, 3, 5]])
    selected = torch.tensor([[False, True, True, True, False]])
    assert nearest_visible(time_s, selected).tolist() == [[0, 0, 0, 4, 4]]
    assert distinct(torch.tensor([[3, 3, 3], [1, 2, 1], [5, 4, 6]])).tolist() == [1, 2, 3]


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="token_weight and contrast_weight"):
        _method(token_weight=0, contrast_weight=0)
    with pytest.raises(SettingError, match="clips must be 1"):
        _method(sampling=ClipsSampling(clips=2))
