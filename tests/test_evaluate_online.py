"""Does the online probe measure without touching what it measures?"""

import numpy as np
import pytest
import torch
from torch import nn

from marey.configs.errors import InputError
from marey.pipeline.training.online_probe import OnlineProbe


class Position(nn.Module):
    """Embeds the brightest column: follows the state whatever the view's colour."""

    def __init__(self, good: bool = True) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.weight = nn.Parameter(torch.ones(1))
        self.good = good

    def preprocess(self, frames):
        return frames.permute(0, 3, 1, 2).float() / 255

    def forward(self, images):
        images = self.norm(images)
        if not self.good:
            return images.mean((2, 3)) * self.weight
        return images.mean((1, 2)).softmax(-1) * self.weight


def bars(events=3, times=16):
    """A bar that moves one column a step, in another colour for each view."""
    frames, event, view, time_s = [], [], [], []
    for e in range(events):
        for v in range(2):
            for t in range(times):
                frame = np.full((16, 16, 3), 20 + 10 * e, np.uint8)
                frame[:, t] = (200, 80, 80) if v else (60, 230, 120)
                frames.append(frame)
                event.append(f"e{e}")
                view.append(str(v))
                time_s.append(t / 10)
    return np.stack(frames), event, view, time_s


def test_an_encoder_that_follows_the_state_beats_chance_and_one_that_does_not_is_at_it():
    frames, event, view, time_s = bars()
    phase = [int(t * 10) // 4 for t in time_s]
    probe = OnlineProbe(frames, event=event, view=view, time_s=time_s, labels=phase, k=3)
    good = probe(Position())
    probe = OnlineProbe(frames, event=event, view=view, time_s=time_s, labels=phase, k=3)
    bad = probe(Position(good=False))
    assert probe.chance["alignment_error"] == pytest.approx(1 / 3)
    assert good["alignment_error"] == 0
    assert bad["alignment_error"] > 0.25
    assert good["knn_accuracy"] == 1
    assert good["phase_error"] == 0
    assert bad["phase_error"] > 0.4
    assert probe.chance["knn_accuracy"] == pytest.approx(0.25)
    assert probe.chance.keys() <= good.keys()


def test_modes_statistics_and_gradients_are_left_as_they_were():
    encoder = Position()
    encoder.train()
    encoder.norm.eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    frames, event, view, time_s = bars(1)
    OnlineProbe(frames, event=event, view=view, time_s=time_s)(encoder)
    assert encoder.training
    assert not encoder.norm.training
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert encoder.weight.grad is None
    assert torch.is_grad_enabled()


def test_scores_do_not_depend_on_the_batch_size():
    frames, event, view, time_s = bars()
    one, all_at_once = (
        OnlineProbe(frames, event=event, view=view, time_s=time_s, batch_size=size).embed(
            Position()
        )
        for size in (1, 1000)
    )
    assert np.allclose(one, all_at_once, atol=1e-5)


def test_images_with_labels_are_scored_by_their_other_images():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 60, (40, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(40) % 4
    for image, label in zip(frames, labels, strict=True):
        image[:, 4 * label] = 250
    probe = OnlineProbe(frames, labels=labels, k=5)
    assert probe(Position())["knn_accuracy"] == 1
    assert "alignment_error" not in probe.chance
    assert "phase_error" not in OnlineProbe(frames, labels=labels, k=5)(Position())


def test_a_diverged_encoder_is_reported_and_wrong_lengths_are_refused():
    frames, event, view, time_s = bars(1)
    broken = Position()
    broken.weight.data.fill_(float("nan"))
    probe = OnlineProbe(frames, event=event, view=view, time_s=time_s)
    assert probe(broken) == {"finite": 0.0}
    with pytest.raises(InputError, match="31 views"):
        OnlineProbe(frames, event=event, view=view[1:], time_s=time_s)


class Constant(Position):
    """Embeds everything alike, until told otherwise."""

    collapsed = True

    def forward(self, images):
        if self.collapsed:
            return images.new_ones(len(images), 16)
        return (50 * images.mean((1, 2))).softmax(-1)


def test_alarms_are_counted_and_two_in_a_row_are_warned_of_but_stop_nothing():
    frames, event, view, time_s = bars()
    probe = OnlineProbe(frames, event=event, view=view, time_s=time_s)
    encoder = Constant()
    first = probe(encoder)
    assert first["alarms"] == 4, "of 16 dimensions one is too few"
    assert first["alarms_in_a_row"] == 0, "the untrained encoder counts"
    assert first["spread"] == pytest.approx(0, abs=1e-3)
    assert first["mean_cosine"] == pytest.approx(1)
    assert probe(encoder)["alarms_in_a_row"] == 1
    assert not probe.warning
    assert probe(encoder)["alarms_in_a_row"] == 2
    assert probe.warning.startswith("two online probes in a row found collapse, cone")
    encoder.collapsed = False
    healthy = probe(encoder)
    assert not probe.warning
    assert healthy["alarms"] == healthy["alarms_in_a_row"] == 0
    encoder.collapsed = True
    assert probe(encoder)["alarms_in_a_row"] == 1
    assert all(isinstance(value, float) for value in healthy.values())
