"""Latent prediction: its equations by hand, and whether it predicts without collapse."""

import pytest
import torch
from torch import nn

from marey.configs.encoder import EncoderConfig
from marey.models.batch import Batch
from marey.models.encoders.encoder import Encoder
from marey.models.method import Progress
from marey.models.objectives.gaussian import sigreg
from marey.models.temporal.latent_prediction import LatentPrediction, LatentPredictionConfig
from tests.learning import draw_dots, train

FRAMES = 6


def _method(**settings: object) -> LatentPrediction:
    encoder = Encoder(EncoderConfig(backbone="tiny", stages=3, image_size=32, embedding_dim=8))
    config = {
        "sampling": {"kind": "clips", "num_frames": FRAMES, "spacing_s": 0.1}, "horizon": 2,
        "predictor_dim": 32, "directions": 64, **settings,
    }  # fmt: skip
    return LatentPrediction(encoder, LatentPredictionConfig.model_validate(config))


def _circles(generator: torch.Generator) -> Batch:
    """A dot that goes round at one pace: what comes next is certain, and never the same."""
    count = 16
    phase = torch.rand(count, 1, generator=generator) * 6.3 + 0.7 * torch.arange(FRAMES)
    x, y = 0.5 + 0.3 * phase.cos(), 0.5 + 0.3 * phase.sin()
    frames = draw_dots(x.flatten(), y.flatten(), torch.zeros(count * FRAMES, 3))
    return {"frames": frames.unflatten(0, (count, FRAMES)), "instance": torch.arange(count)}


@pytest.mark.parametrize(
    "settings",
    [
        {"variance": 10.0, "covariance": 10.0},
        {"regularizer": "sigreg", "weight": 0.1},
        {"variance": 10.0, "covariance": 10.0, "projector_dim": 32},
    ],
)
def test_it_predicts_what_comes_next_without_collapse(settings: dict) -> None:
    metrics = train(_method(**settings), _circles, steps=150)
    assert metrics["embedding_std"] > 0.5
    assert metrics["relative_error"] < 0.2
    assert metrics["error_over_still"] < 0.5


def test_without_a_regularizer_it_collapses() -> None:
    metrics = train(_method(variance=0.0, covariance=0.0), _circles, steps=150)
    assert metrics["embedding_std"] < 0.1


class _Known(nn.Module):
    """Embeddings given beforehand, whatever the images."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.states.flatten(0, 1)


def test_the_loss_is_that_of_its_equation() -> None:
    """Step by step in float64, each answer from what was answered before."""
    torch.manual_seed(0)
    method = _method(context=2, horizon=3, variance=2.0, covariance=3.0).double()
    states = torch.randn(5, FRAMES, 8, dtype=torch.float64)
    method.encoder = _Known(states)  # pyright: ignore[reportAttributeAccessIssue]
    batch = {"images": torch.zeros(5, 1, FRAMES, 3, 4, 4), "instance": torch.arange(5)}
    found = method(batch)
    total = 0.0
    known = [states[:, t] for t in range(FRAMES)]
    predicted = list(known)
    for _ in range(3):
        answers = [method.predictor(torch.cat([predicted[t - 2], predicted[t - 1]], dim=1))
                   for t in range(2, FRAMES)]  # fmt: skip
        predicted = [*known[:2], *answers]
        errors = [(a - b).square() for a, b in zip(predicted, known, strict=True)]
        total = total + torch.stack(errors).mean() / 3
    rows = states.flatten(0, 1)
    variance = (1 - (rows.var(dim=0) + 1e-4).sqrt()).clamp_min(0).mean()
    covariance = rows.T.cov()
    off = covariance - covariance.diagonal().diag()
    expected = total + 2.0 * variance + 3.0 * off.square().sum() / (8 * 7)
    torch.testing.assert_close(found["loss"], expected)
    torch.testing.assert_close(found["prediction"], total)


def test_a_gaussian_is_asked_for_at_each_time_by_itself() -> None:
    torch.manual_seed(0)
    method = _method(regularizer="sigreg", weight=0.5, horizon=1).double()
    states = torch.randn(5, FRAMES, 8, dtype=torch.float64)
    method.encoder = _Known(states)  # pyright: ignore[reportAttributeAccessIssue]
    found = method({"images": torch.zeros(5, 1, FRAMES, 3, 4, 4), "instance": torch.arange(5)})
    each = [sigreg(states[:, t], method.directions) for t in range(FRAMES)]
    torch.testing.assert_close(found["sigreg"], torch.stack(each).mean())
    torch.testing.assert_close(found["loss"], found["prediction"] + 0.5 * found["sigreg"])


def test_nothing_stops_the_gradient_of_what_is_predicted() -> None:
    torch.manual_seed(0)
    method = _method(variance=0.0, covariance=0.0, horizon=1, context=1).double()
    states = torch.randn(3, FRAMES, 8, dtype=torch.float64, requires_grad=True)
    method.encoder = _Known(states)  # pyright: ignore[reportAttributeAccessIssue]
    method({"images": torch.zeros(3, 1, FRAMES, 3, 4, 4), "instance": torch.arange(3)})[
        "loss"
    ].backward()
    assert states.grad is not None
    assert (states.grad[:, -1].abs() > 0).all()  # the last frame is a target alone


def test_directions_are_new_each_step_and_survive_a_checkpoint() -> None:
    method = _method(regularizer="sigreg")
    first = method.directions.clone()
    method.after_step(Progress(1, 10, 0))
    assert not torch.equal(first, method.directions)
    other = _method(regularizer="sigreg")
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.directions, method.directions)


def test_clips_that_are_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least context"):
        _method(context=4, horizon=4)
