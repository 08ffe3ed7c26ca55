"""Does VideoMAE paint clips from visible tubes alone?"""

import pytest
import torch

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.configs.sampling import ClipsSampling
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.patchify import tubelets
from marey.models.temporal.videomae import VideoMAE, VideoMAEConfig
from tests.learning import train
from tests.test_method_masked_pixels import wallpaper

FRAMES = 4


def _method(encoder: dict | None = None, **settings: object) -> VideoMAE:
    torch.manual_seed(0)
    architecture = EncoderConfig.model_validate(
        {
            "backbone": "tiny_video_vit",
            "stages": 2,
            "image_size": 32,
            "clip_frames": FRAMES,
            "clip_step_s": 0.2,
            **(encoder or {}),
        }
    )
    config = VideoMAEConfig.model_validate(
        {
            "sampling": ClipsSampling(num_frames=FRAMES, spacing_s=0.2),
            "decoder_width": 32,
            "decoder_depth": 1,
            "decoder_heads": 4,
            "augment": AugmentConfig(),
            **settings,
        }
    )
    return VideoMAE(Encoder(architecture), config)


def clips(generator: torch.Generator, count: int = 16, frames: int = FRAMES) -> Batch:
    """Two halves of a colour each, which change over time: a hole is painted by its side."""
    ends = torch.rand(2, count, 1, 2, 3, generator=generator)
    share = torch.linspace(0, 1, frames)[None, :, None, None]
    colours = ends[0] * (1 - share) + ends[1] * share
    wide = colours.repeat_interleave(16, dim=2)[:, :, None].expand(-1, -1, 32, -1, -1)
    return {
        "frames": (wide * 255).round().byte(),
        "time_s": 0.2 * torch.arange(frames).float().expand(count, -1),
        "instance": torch.arange(count),
    }


def test_masks_are_tubes_of_nine_tenths() -> None:
    batch = _method().augment(clips(torch.Generator().manual_seed(0)))
    mask = batch["mask"].view(16, 2, 64)
    assert torch.equal(mask[:, 0], mask[:, 1])
    assert (mask.sum(2) == 64 - 6).all()
    assert batch["keep"].shape == (16, 1, 12)
    assert batch["clips"].shape == (16, 1, 3, FRAMES, 32, 32)


def test_no_answer_depends_on_a_hidden_cube() -> None:
    method = _method(norm_pix=False).eval()
    batch = method.augment(clips(torch.Generator().manual_seed(0), 4))
    fine = batch["mask"].view(4, 1, 1, 2, 8, 8)
    for axis, times in ((3, 2), (4, 4), (5, 4)):
        fine = fine.repeat_interleave(times, axis)
    changed = torch.where(fine, batch["clips"] + 1000, batch["clips"])
    with torch.no_grad():
        loss = method({**batch, "clips": changed})["loss"].item()
    assert loss == pytest.approx(1e6, rel=0.01)


def test_the_loss_is_that_of_a_slow_formulation() -> None:
    method = _method().eval()
    generator = torch.Generator().manual_seed(0)
    raw = clips(generator, 3)
    raw["frames"] = torch.randint(0, 256, raw["frames"].shape, generator=generator).byte()
    batch = method.augment(raw)
    clip, mask, keep = (batch[name][:, 0] for name in ("clips", "mask", "keep"))
    with torch.no_grad():
        loss = method(batch)["loss"].item()
        from marey.models.encoders.sines import grid_positions

        tokens = method.encoder.trunk.visible(clip, keep)
        answers = method.decoder(tokens, keep, grid_positions(2, 8, 8)).double()
    terms = []
    for n, place in mask.nonzero().tolist():
        time, row, column = place // 64, place // 8 % 8, place % 8
        cube = clip[
            n, :, 2 * time : 2 * time + 2, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4
        ]
        values = cube.permute(1, 2, 3, 0).flatten().double()
        scaled = (values - values.mean()) / (values.var() + 1e-6).sqrt()
        terms.append((answers[n, place] - scaled).square().mean())
    assert loss == pytest.approx(torch.stack(terms).mean().item(), abs=1e-5)
    assert torch.equal(method.encoder.trunk.cut(clip), tubelets(clip, 2, 4))


def test_several_clips_of_a_sample_are_clips_of_their_own() -> None:
    method = _method(sampling=ClipsSampling(num_frames=FRAMES, spacing_s=0.2, clips=2))
    batch = method.augment(clips(torch.Generator().manual_seed(0), 4, frames=2 * FRAMES))
    assert batch["clips"].shape[:2] == (4, 2)
    assert not torch.equal(batch["mask"][:, 0], batch["mask"][:, 1])
    assert method(batch)["loss"].isfinite()


def test_a_clip_has_one_crop() -> None:
    method = _method(augment=AugmentConfig(crop_scale=(0.2, 0.5), flip=0.5))
    batch = clips(torch.Generator().manual_seed(0), 8)
    still = {**batch, "frames": batch["frames"][:, :1].expand(-1, FRAMES, -1, -1, -1)}
    images = method.augment(still)["clips"]
    assert torch.equal(images[:, :, :, 0], images[:, :, :, -1])


def test_it_learns_to_paint() -> None:
    method = _method()
    metrics = train(method, lambda g: wallpaper(g, 12, FRAMES), steps=60)
    assert method.chance == {"error_over_fill": 1.0, "relative_error": 1.0}
    assert metrics["relative_error"] < 0.4


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ({"backbone": "tiny_r3d", "stages": None}, ["tiny_video_vit", "tiny_r3d"]),
        ({"backbone": "tiny_vit"}, ["tiny_video_vit", "tiny_vit"]),
        ({"clip_frames": 8}, ["clip_frames", "8", "4"]),
        ({"clip_step_s": 0.1}, ["clip_step_s", "0.1", "0.2"]),
        ({"pool": "spatial_softmax"}, ["pool"]),
    ],
)
def test_what_does_not_fit_is_refused(encoder: dict, words: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        _method(encoder)
    assert all(word in str(caught.value) for word in words)
