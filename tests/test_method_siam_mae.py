"""SiamMAE and CropMAE: does the decoder find in one picture what is hidden of the other?"""

import pytest
import torch
from torch import nn

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.batch import Batch
from marey.models.encoders.cross_decoder import CrossBlock, CrossDecoder
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.patchify import patchify, unpatchify
from marey.models.temporal.siam_mae import SiamMAE, SiamMAEConfig
from tests.learning import SIDE, train

SMALL = {"decoder_width": 64, "decoder_depth": 2, "decoder_heads": 4, "decoder_hidden": 128}
ONE = {"sampling": {"kind": "frames"}, "inner": {"crop_scale": (0.3, 0.6), "flip": 0.5}}


def _method(**settings: object) -> SiamMAE:
    encoder = Encoder(EncoderConfig(backbone="tiny_vit", stages=1, image_size=SIDE))
    return SiamMAE(encoder, SiamMAEConfig.model_validate({**SMALL, "augment": {}, **settings}))


def _pairs(generator: torch.Generator, count: int = 16) -> Batch:
    """Two frames of stripes, each row of a brightness of its own: three patches of 64 that are
    visible tell little of the rows of the others."""
    rows = torch.rand(count, 1, SIDE, 1, 1, generator=generator).expand(-1, 2, -1, SIDE, 3)
    return {"frames": (rows * 255).byte(), "instance": torch.arange(count)}


def test_it_finds_in_the_first_frame_what_is_hidden_of_the_second() -> None:
    method = _method(decoder_depth=1)
    train(method, _pairs, steps=250, lr=1e-3)
    torch.manual_seed(5)
    batch = method.augment(_pairs(torch.Generator().manual_seed(9), 64))
    with torch.no_grad():
        known = method(batch)["relative_error"]
        batch["first"] = batch["first"].roll(1, dims=0)
        strange = method(batch)["relative_error"]
    assert known < 0.2
    assert strange > 1.0


def test_the_decoder_s_blocks_are_those_of_their_definition() -> None:
    """Against torch's own attention, in the order of the released code."""
    torch.manual_seed(0)
    width, heads = 12, 3
    block = CrossBlock(width, heads, 20).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))

    def attention(ours: nn.Module) -> nn.MultiheadAttention:
        theirs = nn.MultiheadAttention(width, heads, batch_first=True).double()
        state = ours.state_dict()
        theirs.load_state_dict(
            {
                "in_proj_weight": torch.cat([state["asks.weight"], state["answers.weight"]]),
                "in_proj_bias": torch.cat([state["asks.bias"], state["answers.bias"]]),
                "out_proj.weight": state["outwards.weight"],
                "out_proj.bias": state["outwards.bias"],
            }
        )
        return theirs

    x, others = torch.randn(2, 5, width).double(), torch.randn(2, 7, width).double()
    first, second, third = block.norms
    seen = attention(block.cross)(x, others, others)[0]
    expected = first(x + seen)
    expected = second(expected + block.mlp(expected))
    expected = third(expected + attention(block.own)(expected, expected, expected)[0])
    torch.testing.assert_close(block(x, others), expected)


def test_hidden_patches_change_nothing_but_the_target() -> None:
    method = _method().eval()
    torch.manual_seed(0)
    batch = method.augment(_pairs(torch.Generator().manual_seed(1)))
    found: list[torch.Tensor] = []
    handle = method.decoder.register_forward_hook(lambda module, given, out: found.append(out))
    method(batch)
    patches = patchify(batch["second"].flatten(0, 1), method.patch)
    mask = batch["mask"].flatten(0, 1)[..., None]
    side = method.side * method.patch
    changed = torch.where(mask, torch.randn_like(patches), patches)
    again = {**batch, "second": unpatchify(changed, method.patch, side)[:, None]}
    method(again)
    handle.remove()
    assert torch.equal(found[0], found[1])
    assert mask.float().mean() == pytest.approx(0.95, abs=0.02)


def test_the_second_picture_of_one_frame_is_a_crop_of_the_first() -> None:
    """A ramp from left to right: the crop's range lies within that of the picture."""
    settings = {**ONE, "inner": {"crop_scale": (0.3, 0.3), "crop_ratio": (1.0, 1.0)}}
    method = _method(**settings)
    ramp = torch.linspace(0, 255, 64).byte()[None, None, None, :, None]
    frames = ramp.expand(4, 1, 64, 64, 3)
    torch.manual_seed(0)
    batch = method.augment({"frames": frames, "instance": torch.arange(4)})
    first, second = (batch[name] * method.encoder.std + method.encoder.mean
                     for name in ("first", "second"))  # fmt: skip
    spans = [picture.amax((-3, -2, -1)) - picture.amin((-3, -2, -1)) for picture in (first, second)]
    share = (spans[1] / spans[0]).flatten()
    torch.testing.assert_close(share, torch.full_like(share, 0.3**0.5), atol=0.06, rtol=0)
    assert batch["first"].shape == batch["second"].shape == (4, 1, 3, SIDE, SIDE)


def test_both_frames_of_a_pair_have_one_crop_and_flip() -> None:
    method = _method(augment={"crop_scale": (0.3, 0.6), "flip": 0.5})
    one = torch.randint(0, 255, (6, 1, 40, 40, 3), dtype=torch.uint8)
    torch.manual_seed(0)
    batch = method.augment({"frames": one.expand(-1, 2, -1, -1, -1), "instance": torch.arange(6)})
    assert torch.equal(batch["first"], batch["second"])


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="`inner` must say"):
        SiamMAEConfig.model_validate({"sampling": {"kind": "frames"}})
    with pytest.raises(ValueError, match="`inner` must say"):
        SiamMAEConfig.model_validate({"inner": {}})
    with pytest.raises(SettingError, match="3 attention heads do not divide"):
        CrossDecoder(8, 16, 1, 3, hidden=8, values=3)
    with pytest.raises(SettingError, match="plain transformer"):
        SiamMAE(Encoder(EncoderConfig(backbone="tiny", image_size=SIDE)), SiamMAEConfig())
