"""Does Monodepth2 take the best match, leave out what stands still, and learn depth?"""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.autograd import gradcheck

from marey.configs.encoder import EncoderConfig
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.depth.camera import focal_share, rigid_transform
from marey.models.depth.decoder import trunk_maps
from marey.models.depth.photometric import photometric_error
from marey.models.encoders.encoder import Encoder
from marey.models.method import Progress
from marey.models.temporal.mono_depth import MonoDepth, MonoDepthConfig, compare, warp_sources
from marey.pipeline.evaluate.depth import depth_errors, order_agreement, summarize
from tests.depth_scenes import FIELD_OF_VIEW_DEG, clip_batch, eye_at, make_scene
from tests.learning import train

SIDE = 32
OFF = torch.tensor(False)


def _method(seed: int = 0, **settings) -> MonoDepth:
    torch.manual_seed(seed)
    config = MonoDepthConfig.model_validate(
        {"field_of_view_deg": FIELD_OF_VIEW_DEG, "pose_width": 32, **settings}
    )
    return MonoDepth(Encoder(EncoderConfig(image_size=SIDE)), config)


def _batch(frames: Tensor) -> Batch:
    return {"frames": frames, "instance": torch.arange(len(frames))}


def _pictures(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_each_pixel_takes_the_neighbour_that_matches_best() -> None:
    target = _pictures(1, 3, 8, 8, seed=0)
    good, bad = target + 0.01, target.flip(3)
    # the left half is seen by the first source only, the right half by the second only
    first, second = good.clone(), bad.clone()
    first[..., 4:], second[..., 4:] = bad[..., 4:], good[..., 4:]
    warped = torch.stack([first, second], dim=1)
    still = torch.rand_like(warped)
    quiet = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    minimum = compare(target, warped, still, quiet, mask=OFF).error
    mean = compare(target, warped, still, quiet, mask=OFF, over_sources="mean").error
    inner = [0, 1, 2, 5, 6, 7]  # the boxes of similarity do not reach over the middle there
    wanted = photometric_error(target, good)[:, 0]
    torch.testing.assert_close(minimum[..., inner], wanted[..., inner])
    both = (wanted + photometric_error(target, bad)[:, 0]) / 2
    torch.testing.assert_close(mean[..., inner], both[..., inner])


def test_pixels_that_an_unmoved_neighbour_explains_are_left_out_and_have_no_gradient() -> None:
    target = _pictures(1, 3, 8, 8, seed=0)
    still = target.clone()[:, None]
    still[..., 4:] = _pictures(1, 1, 3, 8, 4, seed=1)  # only the left half stands still
    warped = (target + 0.05 * _pictures(1, 3, 8, 8, seed=2))[:, None].requires_grad_()
    noise = torch.full((1, 1, 8, 8), 1e-5, dtype=torch.float64)
    found = compare(target, warped, still, noise)
    assert not found.kept[..., :3].any()
    assert found.kept[..., 6:].all()
    found.error.mean().backward()
    assert warped.grad is not None
    assert not warped.grad[..., :2].any()
    assert warped.grad[..., 6:].any()
    assert compare(target, warped, still, noise, mask=OFF).error[..., :3].min() > 1e-5


def test_the_comparison_has_the_right_gradient() -> None:
    target, still = _pictures(1, 3, 4, 4, seed=0), _pictures(1, 2, 3, 4, 4, seed=1)
    noise = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    warped = _pictures(1, 2, 3, 4, 4, seed=2).requires_grad_()
    assert gradcheck(lambda x: compare(target, x, still, noise).error, (warped,))


def test_the_loss_is_the_papers() -> None:
    """Every scale upsampled, warped and compared; the mean over scales of error and roughness."""
    method = _method(fixed_scale=False, mask_from=0.0).eval()
    frames, _ = clip_batch(range(2), SIDE)
    batch = method.augment(_batch(frames))
    with torch.no_grad():
        got = method(batch)["loss"].item()
        disparities = method.decoder(trunk_maps(method.encoder, batch["images"][:, 1]))
        motions = method.motions(batch["images"]).numpy()
    total = 0.0
    focal = focal_share(FIELD_OF_VIEW_DEG)
    plain, noise = batch["plain"].double(), batch["noise"].double()
    for scale, disparity in enumerate(disparities):
        full = torch.nn.functional.interpolate(
            disparity, (SIDE, SIDE), mode="bilinear", align_corners=False
        )
        depth = 1 / (0.01 + (10 - 0.01) * full.double())
        for item in range(2):
            candidates = []
            for place, source in enumerate((0, 2)):
                made = _slow_warp(
                    plain[item, source].numpy(), depth[item, 0].numpy(), motions[item, place], focal
                )
                target = plain[item, 1][None]
                candidates.append(photometric_error(target, torch.from_numpy(made)[None])[0, 0])
                unmoved = photometric_error(target, plain[item, source][None])[0, 0]
                candidates.append(unmoved + noise[item, place])
            total += torch.stack(candidates).amin(dim=0).mean().item() / 2
            level = (disparity[item, 0] / disparity[item, 0].mean()).double().numpy()
            step = SIDE // len(level)
            image = plain[item, 1].numpy().reshape(3, len(level), step, len(level), step)
            image = image.mean(axis=(2, 4))
            for axis in (0, 1):
                edge = np.abs(np.diff(image, axis=axis + 1)).mean(axis=0)
                slope = np.abs(np.diff(level, axis=axis)) * np.exp(-edge)
                total += 1e-3 / 2**scale * slope.mean() / 2
    assert got == pytest.approx(total / len(disparities), abs=1e-5)


def _slow_warp(image: np.ndarray, depth: np.ndarray, motion: np.ndarray, focal: float):
    """[3, S, S] as seen from the target, pixel by pixel."""
    size = depth.shape[0]
    made = np.zeros_like(image)
    for row, column in np.ndindex(size, size):
        ray = np.array(
            [((column + 0.5) / size - 0.5) / focal, ((row + 0.5) / size - 0.5) / focal, 1]
        )
        a, b, c = motion[:, :3] @ (depth[row, column] * ray) + motion[:, 3]
        x = np.clip((focal * a / c + 0.5) * size - 0.5, 0, size - 1)
        y = np.clip((focal * b / c + 0.5) * size - 0.5, 0, size - 1)
        left, top = min(int(x), size - 2), min(int(y), size - 2)
        box = image[:, top : top + 2, left : left + 2]
        across = box[:, :, 0] * (1 - x + left) + box[:, :, 1] * (x - left)
        made[:, row, column] = across[:, 0] * (1 - y + top) + across[:, 1] * (y - top)
    return made


def test_true_depth_and_motion_explain_the_target_better_than_wrong_ones() -> None:
    seeds, step = range(4), 0.2
    frames, depth = clip_batch(seeds, SIDE, step=step)
    plain = frames.permute(0, 1, 4, 2, 3).float() / 255
    depth = torch.from_numpy(depth)[:, None]
    gone = torch.from_numpy(np.stack([step * make_scene(s).path for s in seeds])).float()
    assert np.allclose(eye_at(make_scene(0), 0.7) - eye_at(make_scene(0), 0.5), gone[0], atol=1e-6)
    vectors = torch.cat([torch.zeros_like(gone), -gone], dim=1)
    # the camera went from frame 0 to 1 as from 1 to 2: the way back is the inverse
    true = torch.stack([rigid_transform(vectors, inverse=True), rigid_transform(vectors)], dim=1)
    focal = focal_share(FIELD_OF_VIEW_DEG)

    def error(motions: Tensor, depth: Tensor) -> float:
        made = warp_sources(plain[:, [0, 2]], depth, motions, focal)
        quiet = torch.zeros(len(plain), 2, SIDE, SIDE)
        return compare(plain[:, 1], made, plain[:, [0, 2]], quiet, mask=OFF).error.mean().item()

    right_way = error(true, depth)
    unmoved = rigid_transform(torch.zeros(4, 6))[:, None].expand(-1, 2, -1, -1)
    assert right_way < 0.5 * error(unmoved, depth)
    assert right_way < 0.5 * error(true.flip(1), depth)
    assert right_way < 0.8 * error(true, depth.mean() * torch.ones_like(depth))


def test_motions_to_frames_before_the_target_are_those_of_the_pair_turned_round() -> None:
    """Frame 0 against 1 and frame 1 against 2 are one pair here: their motions are inverse."""
    method = _method().eval()
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    images = torch.stack([images[0], images[1], images[0]])[None]
    alike = images.clone()
    alike[:, 1], alike[:, 2] = images[:, 0], images[:, 0]
    with torch.no_grad():
        before, after = method.motions(alike)[0]
    eye = torch.eye(3)
    torch.testing.assert_close(before[:, :3] @ after[:, :3], eye, atol=1e-5, rtol=0)
    moved = before[:, :3] @ after[:, 3:] + before[:, 3:]
    torch.testing.assert_close(moved, torch.zeros(3, 1), atol=1e-5, rtol=0)


def test_a_clip_that_stands_still_teaches_nothing_but_smoothness() -> None:
    frames, _ = clip_batch(range(2), SIDE)
    still = frames[:, 1:2].expand(-1, 3, -1, -1, -1)
    method = _method(smoothness=0.0, mask_from=0.0).train()
    metrics = method(method.augment(_batch(still)))
    assert metrics["masked"] > 0.95
    metrics["loss"].backward()
    moving = _method(smoothness=0.0, mask_from=0.0).train()
    moving(moving.augment(_batch(frames)))["loss"].backward()

    def size(model: MonoDepth) -> float:
        return sum(p.grad.norm().item() for p in model.parameters() if p.grad is not None)

    assert size(method) < 0.05 * size(moving)


def test_one_draw_of_colours_and_one_mirror_for_all_frames_of_a_sample() -> None:
    frames, _ = clip_batch(range(1), SIDE)
    still = frames[:, :1].expand(16, 3, -1, -1, -1)
    batch = _method().augment(_batch(still))
    for name in ("images", "plain"):
        assert torch.equal(batch[name][:, 0], batch[name][:, 2])
    assert len(torch.unique(batch["plain"][:, 0].flatten(1), dim=0)) == 2
    assert len(torch.unique(batch["images"][:, 0].flatten(1), dim=0)) > 4
    colours = AugmentConfig(jitter=1.0, brightness=0.5, colors="shared")
    varied = _method(augment=colours, mirror=0.0).augment(_batch(still))
    assert torch.equal(varied["plain"][:, 0], varied["plain"][:1, 0].expand(16, -1, -1, -1))
    unchanged = _method().encoder.normalize(varied["plain"][:, 0])
    assert (varied["images"][:, 0] - unchanged).abs().flatten(1).amax(dim=1).min() > 0.001


def test_the_mask_sets_in_when_motions_have_had_time() -> None:
    method = _method(mask_from=0.5)
    states = [bool(method.masking)]
    for step in range(1, 5):
        method.after_step(Progress(step, 4, 0))
        states.append(bool(method.masking))
    assert states == [False, False, True, True, True]
    assert "masking" in method.state_dict()  # a resumed run goes on where it was
    assert bool(_method(mask_from=0.0).masking)


@pytest.mark.parametrize("fixed", [True, False])
def test_the_mean_nearness_is_held_where_it_starts(fixed: bool) -> None:
    method = _method(fixed_scale=fixed).eval()
    images = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for head in method.decoder.heads:
            head.bias -= 4.0  # what drives all depth away
        nearness = (1 / method.depth(images)).mean(dim=(1, 2, 3))
    start = (1 / 0.1 + 1 / 100) / 2
    held = torch.isclose(nearness, torch.full((3,), start), rtol=1e-4)
    assert held.all() if fixed else not held.any()


@pytest.mark.parametrize(
    "settings",
    [{"full_resolution": False}, {"over_sources": "mean"}, {"mask_from": 1.0}],
)
def test_every_ablation_changes_the_loss_and_trains_all_parts(settings: dict) -> None:
    frames, _ = clip_batch(range(2), SIDE)
    losses = []
    for options in ({}, settings):
        method = _method(**{"mask_from": 0.0, **options}).train()
        batch = method.augment(_batch(frames))
        torch.manual_seed(1)
        loss = method(batch)["loss"]
        loss.backward()
        assert all(p.grad is not None for p in method.parameters())
        losses.append(loss.item())
    assert losses[0] != losses[1]


@pytest.mark.parametrize("count", [2, 5])
def test_other_numbers_of_frames_work(count: int) -> None:
    frames, _ = clip_batch(range(2), SIDE)
    frames = frames[:, [0, 1, 2, 1, 0][:count]]
    method = _method(sampling={"kind": "clips", "num_frames": count})
    batch = method.augment(_batch(frames))
    assert batch["noise"].shape == (2, count - 1, SIDE, SIDE)
    assert method.motions(batch["images"]).shape == (2, count - 1, 3, 4)
    assert method(batch)["loss"].isfinite()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sampling": {"kind": "clips", "num_frames": 1}}, "2 to 5"),
        ({"sampling": {"kind": "clips", "num_frames": 3, "clips": 2}}, "one clip"),
        ({"augment": {"zoom": 0.5}}, "colours only"),
        ({"augment": {"jitter": 1.0, "hue": 0.1}}, "shared"),
    ],
)
def test_settings_that_break_the_geometry_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        MonoDepthConfig.model_validate(settings)


def test_it_learns_depth_from_moving_clips_alone() -> None:
    frames, _ = clip_batch(range(32), SIDE, step=0.15)

    def draw(generator: torch.Generator) -> Batch:
        return _batch(frames[torch.randperm(len(frames), generator=generator)[:8]])

    method = _method(mask_from=1.0)
    metrics = train(method, draw, steps=75, lr=1e-3)
    assert metrics["gain"] > method.chance["gain"] + 0.1
    frames, truth = clip_batch(range(100, 108), SIDE)
    method.eval()
    seen = method.encoder.normalize(frames[:, 1].permute(0, 3, 1, 2).float() / 255)
    with torch.no_grad():
        guess = method.depth(seen)[:, 0].numpy()
    pairs = list(zip(guess, truth, strict=True))
    summary = summarize([depth_errors(p, t, median_scaling=True) for p, t in pairs])
    assert summary.mean.abs_rel < 0.35  # one depth everywhere: 0.49
    assert np.mean([order_agreement(p, t) for p, t in pairs]) > 0.75  # one depth: 0.5


def test_pictures_show_each_sample() -> None:
    frames, _ = clip_batch(range(2), SIDE)
    with torch.no_grad():
        pictures = _method().eval().pictures(_batch(frames))
    assert list(pictures)[:2] == ["target", "nearness"]
    assert all(p.shape == (2, SIDE, SIDE, 3) and p.dtype == torch.uint8 for p in pictures.values())
    assert (pictures["target"].float() - frames[:, 1].float()).abs().max() <= 1
