"""Does ST-DIM contrast each frame, whole and place by place, with the one before it?"""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.nature_network import NatureNetwork
from marey.models.temporal.st_dim import STDIM, STDIMConfig, contrast_places, place_scores
from tests.learning import draw_dots, train


def _method(encoder: dict[str, Any] | None = None, **settings: Any) -> STDIM:
    torch.manual_seed(0)
    config = STDIMConfig.model_validate({"reduction": 4, "augment": {}, **settings})
    network = EncoderConfig(image_size=32, norm="layer", **(encoder or {}))
    return STDIM(Encoder(network), config)


def _pairs(generator: torch.Generator, count: int = 16, videos: int = 4) -> Batch:
    """A dot goes steadily across a video's own background; where it is, time alone tells."""
    instance = torch.arange(count) % videos
    start = torch.rand(count, generator=generator) * 0.8
    x = start[:, None] + torch.tensor([0.05, 0.1])
    colors = torch.rand(videos, 3, generator=torch.Generator().manual_seed(7)) * 0.3
    background = colors[instance].repeat_interleave(2, dim=0)
    dots = draw_dots(x.flatten(), torch.full((2 * count,), 0.5), background)
    return {
        "frames": dots.unflatten(0, (count, 2)),
        "time_s": 10 * x,
        "view": torch.zeros(count, 2, dtype=torch.long),
        "instance": instance,
    }


def test_the_loss_is_that_of_the_released_code() -> None:
    """Written down again as there: a loop over places, each a cross entropy over the batch."""
    method = _method().eval()
    batch = method.augment(_pairs(torch.Generator().manual_seed(0), count=8, videos=8))
    before, now = batch["images"].unbind(dim=1)
    trunk = method.encoder.trunk
    local = method.level
    of_now, of_before = (trunk.pyramid(images) for images in (now, before))  # pyright: ignore
    embedding = method.encoder.embed(of_now[-1])
    here, there = (maps[local].permute(0, 2, 3, 1) for maps in (of_now, of_before))
    target = torch.arange(8)
    whole = parts = torch.zeros(())
    for y in range(there.shape[1]):
        for x in range(there.shape[2]):
            known = there[:, y, x]
            whole = whole + functional.cross_entropy(method.of_frame(embedding) @ known.T, target)
            predicted = method.of_place(here[:, y, x])
            parts = parts + functional.cross_entropy(predicted @ known.T, target)
    expected = (whole + parts) / (there.shape[1] * there.shape[2])
    torch.testing.assert_close(method(batch)["loss"], expected, rtol=1e-5, atol=1e-5)


def test_permuting_the_batch_changes_nothing() -> None:
    method = _method().eval()
    batch = method.augment(_pairs(torch.Generator().manual_seed(0)))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    mixed = {name: value[order] for name, value in batch.items()}
    for name, value in method(batch).items():
        torch.testing.assert_close(method(mixed)[name], value, rtol=1e-4, atol=1e-4)


def test_near_frames_of_the_video_and_the_frame_itself_are_no_negatives() -> None:
    method = _method(near_s=1.0).eval()
    raw = _pairs(torch.Generator().manual_seed(0), count=4, videos=4)
    batch = method.augment(raw)
    free = method(batch)["loss"].item()
    # all of one video, within a second: nobody has a negative
    together = batch | {"instance": torch.zeros(4, dtype=torch.long)}
    together["time_s"] = torch.tensor([[0.0, 0.1], [0.2, 0.3], [0.4, 0.5], [0.6, 0.7]])
    found = method(together)
    assert float(found["loss"]) == 0.0
    assert float(found["time_auc"]) == 0.0  # there is no rival
    far = together | {"time_s": together["time_s"] * 100}
    assert method(far)["loss"].item() == pytest.approx(free, rel=1e-5)
    # another camera's frame is another picture
    view = torch.arange(4)[:, None].expand(4, 2)
    assert method(together | {"view": view})["loss"].item() == pytest.approx(free, rel=1e-5)


def test_frames_of_other_videos_do_not_count_where_only_the_own_one_s_do() -> None:
    method = _method(negatives="same_video").eval()
    batch = method.augment(_pairs(torch.Generator().manual_seed(0), count=8, videos=2))
    parts = [
        {name: value[batch["instance"] == video] for name, value in batch.items()}
        for video in (0, 1)
    ]
    alone = [method(part)["loss"].item() for part in parts]
    assert method(batch)["loss"].item() == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_places_are_compared_with_the_same_place_only() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, candidates = (torch.randn(5, 3, 7, generator=generator) for _ in range(2))
    scores = place_scores(queries, candidates, 0.5)
    assert scores.shape == (3, 5, 5)
    for place in range(3):
        torch.testing.assert_close(scores[place], queries[:, place] @ candidates[:, place].T / 0.5)
    negative = ~torch.eye(5, dtype=torch.bool)
    moved = scores.clone()
    moved[2] += 1.0  # the same for all candidates of a place
    before, after = (contrast_places(one, negative).mean() for one in (scores, moved))
    torch.testing.assert_close(before, after)


def test_it_learns_what_time_alone_tells() -> None:
    metrics = train(_method({"pool": "spatial_softmax"}, near_s=0.2), _pairs, steps=120)
    assert metrics["time_auc"] > 0.8  # of one video, where nothing but the dot differs
    assert metrics["information"] > 1.2  # of log 16 = 2.8


def test_both_frames_share_their_crop() -> None:
    method = _method(augment={"crop_scale": (0.3, 0.6), "flip": 0.5})
    raw = _pairs(torch.Generator().manual_seed(0))
    raw["frames"] = raw["frames"][:, :1].expand(-1, 2, -1, -1, -1)
    images = method.augment(raw)["images"]
    torch.testing.assert_close(images[:, 0], images[:, 1])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValidationError, match="num_frames must be 2"):
        STDIMConfig.model_validate({"sampling": {"num_frames": 3}})
    with pytest.raises(SettingError, match="have reductions 2, 4"):
        _method(reduction=16)
    with pytest.raises(SettingError, match="121 px or more"):
        NatureNetwork(96)


def test_the_network_of_agents_sees_the_console_s_frame_alone() -> None:
    """Its maps are those of 210 x 160: 11 x 8 and, before the vector, 9 x 6 (released code)."""
    network = NatureNetwork(210).eval()
    images = torch.rand(2, 3, 210, 210)
    local, vector = network.pyramid(images)
    assert local.shape == (2, 128, 11, 8)
    assert vector.shape == (2, 256, 1, 1)
    assert network.last[3].weight.shape == (256, 64 * 9 * 6)  # pyright: ignore
    other = images.clone()
    other[:, 1:] = 0
    other[..., :25] = other[..., 185:] = 1
    for one, two in zip(network.pyramid(images), network.pyramid(other), strict=True):
        torch.testing.assert_close(one, two)
