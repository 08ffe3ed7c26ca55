"""Are answers among classes judged by the samples that have one, and by no others?"""

import torch
from torch.nn import functional

from marey.models.objectives.classification import guess


def test_a_guess_is_scored_over_usable_samples_only() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0, 1, 2, 0])
    usable = torch.tensor([True, False, True, True])
    metrics = guess(logits, label, usable)
    expected = functional.cross_entropy(logits[usable], label[usable])
    torch.testing.assert_close(metrics["loss"], expected)
    assert torch.autograd.gradcheck(lambda z: guess(z, label, usable)["loss"], (logits,))
    right = (logits.argmax(1) == label)[usable].float().mean()
    torch.testing.assert_close(metrics["accuracy"], right)
    assert metrics["valid"] == 0.75
    nothing = guess(logits, label, torch.zeros(4, dtype=torch.bool))
    assert nothing["loss"] == 0
    (gradient,) = torch.autograd.grad(nothing["loss"], logits)
    assert (gradient == 0).all()
