"""Is a mask carried to where its features went, and no farther than the settings allow?"""

import json

import cv2
import numpy as np
import pytest
import torch

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import InputError, SettingError
from marey.models.encoders.encoder import Encoder
from marey.pipeline.cli.main import main
from marey.pipeline.embedding.encoder_files import export_encoder
from marey.pipeline.evaluate.propagation import box_masks, propagate, region_similarity
from marey.pipeline.runtime.storage import Folder


def moving_maps(frames=8, side=12, step=1, channels=64):
    """A 3x3 thing of its own features that moves over a background of others: maps and masks."""
    generator = torch.Generator().manual_seed(0)
    background = torch.randn(channels, side, side, generator=generator)
    thing = torch.randn(channels, 3, 3, generator=generator)
    maps = background.repeat(frames, 1, 1, 1)
    masks = torch.zeros(frames, side, side, dtype=torch.bool)
    for t in range(frames):
        maps[t, :, 4:7, t * step : t * step + 3] = thing
        masks[t, 4:7, t * step : t * step + 3] = True
    return maps, masks


def start(masks):
    first = masks[0].float()
    return torch.stack([1 - first, first])


def overlap(found, masks):
    return region_similarity((found[:, 1] > 0.5).numpy(), masks.numpy())


def test_a_mask_follows_its_features_exactly_when_they_are_unique():
    maps, masks = moving_maps()
    found = propagate(maps, start(masks), top_k=1)
    assert overlap(found, masks).tolist() == [1.0] * len(maps)
    assert torch.allclose(found.sum(dim=1), torch.ones(8, 12, 12), atol=1e-5)
    assert overlap(propagate(10 * maps, start(masks), top_k=1), masks).min() == 1
    still = masks[:1].expand_as(masks)
    assert region_similarity(still.numpy(), masks.numpy()).mean() < 0.5


def test_it_equals_the_slow_formulation():
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(5, 6, 4, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 4, 5, generator=generator).softmax(dim=0)
    found = propagate(maps, mask, top_k=4, context=2, radius=1.5, temperature=0.2)
    unit = maps / maps.norm(dim=1, keepdim=True)
    slow = [mask.double()]
    for t in range(1, 5):
        label = torch.zeros(3, 4, 5, dtype=torch.float64)
        for y in range(4):
            for x in range(5):
                choices = []
                for s in [0, *range(max(1, t - 2), t)]:
                    for v in range(4):
                        for u in range(5):
                            if s and (v - y) ** 2 + (u - x) ** 2 > 1.5**2:
                                continue
                            score = float(unit[t, :, y, x] @ unit[s, :, v, u]) / 0.2
                            choices.append((score, slow[s][:, v, u]))
                choices.sort(key=lambda choice: -choice[0])
                weights = torch.tensor([c[0] for c in choices[:4]], dtype=torch.float64).softmax(0)
                label[:, y, x] = sum(w * c[1] for w, c in zip(weights, choices[:4], strict=True))  # pyright: ignore
        slow.append(label)
    assert torch.allclose(found.double(), torch.stack(slow), atol=1e-5)


def test_the_first_frame_holds_a_thing_that_context_alone_loses():
    """Occluded for longer than the context reaches, it is found again in the first frame."""
    maps, masks = moving_maps(frames=8, step=0)
    maps[2:7, :, 4:7, :3] = torch.randn(64, 3, 3, generator=torch.Generator().manual_seed(5))
    masks[2:7] = False
    found = propagate(maps, start(masks), top_k=1, context=2)
    assert overlap(found, masks)[7] == 1


def test_wrong_shapes_and_settings_are_refused():
    maps, masks = moving_maps()
    with pytest.raises(SettingError, match="radius"):
        propagate(maps, start(masks), radius=0)
    with pytest.raises(InputError, match="features"):
        propagate(maps[0], start(masks))
    with pytest.raises(InputError, match="features"):
        propagate(maps, start(masks)[:, :4])


def test_boxes_cover_the_pixels_whose_centres_they_hold():
    boxes = np.array([[1, 2, 3, 2], [-5, -5, 7, 8], [np.nan] * 4, [0.4, 0, 1.2, 1]])
    masks = box_masks(boxes, (6, 8))
    assert masks[0].sum() == 6
    assert masks[0, 2:4, 1:4].all()
    assert masks[1].sum() == 6
    assert not masks[2].any()
    assert np.flatnonzero(masks[3, 0]).tolist() == [0, 1]
    assert region_similarity(masks[:1], masks[:1]) == 1
    assert region_similarity(masks[:1], masks[1:2])[0] == pytest.approx(1 / 11)


def test_a_sequence_is_scored_from_the_command_line(tmp_path, capsys):
    torch.manual_seed(0)
    config = EncoderConfig(backbone="tiny", image_size=64, stages=1)
    export_encoder(Folder(str(tmp_path / "run")), Encoder(config), {})
    (tmp_path / "otb" / "Ball" / "img").mkdir(parents=True)
    rng = np.random.default_rng(0)
    background = cv2.resize(rng.integers(0, 120, (8, 8, 3)).astype(np.uint8), (96, 64))
    lines = []
    for t in range(6):
        frame = background.copy()
        x = 8 + 10 * t
        frame[20:44, x : x + 24] = (30, 60, 240)
        cv2.imwrite(str(tmp_path / "otb" / "Ball" / "img" / f"{t + 1:04d}.jpg"), frame)
        lines.append(f"{x + 1},21,24,24")
    (tmp_path / "otb" / "Ball" / "groundtruth_rect.txt").write_text("\n".join(lines))
    words = f"eval propagation {tmp_path / 'run'} --data {tmp_path / 'otb'} size=64 --json"
    assert main([*words.split(), "--baseline", str(tmp_path / "run")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["figures"]["mean_iou"] > result["figures"]["mean_iou_still"] + 0.3
    assert result["figures"]["iou_Ball"] == result["figures"]["mean_iou"]
    assert result["baseline"] == result["figures"]
    assert main(["eval", "propagation", str(tmp_path / "run")]) == 2
    assert "--data" in capsys.readouterr().err
    assert main([*words.split(), "temperatur=3"]) == 2
    assert "temperatur" in capsys.readouterr().err
