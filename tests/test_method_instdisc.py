"""Does InstDisc contrast with its bank, spare what is alike, and learn?"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from marey.configs.errors import SettingError
from marey.models.batch import Batch
from marey.models.contrastive.instdisc import InstDisc, InstDiscConfig
from marey.models.method import Corpus, Progress
from marey.models.objectives.memory import NOBODY
from tests.joint_embedding import COLORS, dots, small_encoder
from tests.learning import train_on

PLACES = 48
STEP = Progress(1, 10, 0)
OBJECTIVES = ["softmax", "sampled_softmax", "nce"]


def _method(places: int = PLACES, **settings: object) -> InstDisc:
    config = InstDiscConfig.model_validate(
        {
            "objective": "softmax",
            "negatives": 64,
            "projection_dim": 16,
            "temperature": 0.2,
            "augment": COLORS,
            **settings,
        }
    )
    method = InstDisc(small_encoder(), config)
    method.prepare(Corpus(places=places))
    return method


def _corpus(places: int = PLACES) -> Batch:
    images = dots(torch.Generator().manual_seed(0), places)
    return images | {"place": torch.arange(places)}


def _embed(method: InstDisc, batch: Batch) -> Tensor:
    projected = method.projection(method.encoder(batch["images"].flatten(0, 1)))
    return functional.normalize(projected)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_it_learns_to_tell_images_apart(objective: str) -> None:
    method = _method(objective=objective)
    metrics = train_on(method, _corpus(), epochs=25, size=24)
    assert metrics["information"] > 0.7  # nats, of log(48) = 3.9
    assert metrics["top1"] > 0.1  # five times 1 in 48


def test_the_whole_softmax_is_cross_entropy_over_the_bank() -> None:
    method = _method().eval()
    batch = method.augment(_corpus())
    logits = _embed(method, batch) @ method.bank.rows.T / 0.2
    wanted = functional.cross_entropy(logits, batch["place"])
    torch.testing.assert_close(method(batch)["loss"], wanted)


@pytest.mark.parametrize("objective", ["sampled_softmax", "nce"])
def test_drawn_rows_are_noise_and_never_the_own_row(objective: str) -> None:
    method = _method(objective=objective, z_batches=1).eval()
    batch = method.augment({key: value[:6] for key, value in _corpus().items()})
    noise = batch["noise"].flatten(0, 1)
    assert (noise == batch["place"][:, None]).any()  # 64 draws of 48 rows hit it
    assert 0 <= noise.min() <= noise.max() < PLACES
    scores = _embed(method, batch) @ method.bank.rows.T / 0.2
    right = scores.gather(1, batch["place"][:, None])[:, 0]
    all_scores = torch.cat([right[:, None], scores.gather(1, noise)], dim=1)
    losses = []
    for row in range(6):
        others = noise[row][noise[row] != batch["place"][row]]
        logits = torch.cat([right[row : row + 1], scores[row, others]])
        if objective == "sampled_softmax":
            losses.append(functional.cross_entropy(logits[None], torch.tensor([0])))
            continue
        z = PLACES * all_scores.exp().mean()
        likely = logits.exp() / z
        share = likely / (likely + 64 / PLACES)
        losses.append(-share[0].log() - (1 - share[1:]).log().sum())
    torch.testing.assert_close(method(batch)["loss"], torch.stack(losses).mean(), rtol=1e-4, atol=0)


def test_before_anything_is_known_the_loss_is_log_n() -> None:
    method = _method(temperature=10.0)
    metrics = method(method.augment(_corpus()))
    assert metrics["loss"].item() == pytest.approx(math.log(PLACES), abs=0.1)
    assert metrics["information"].item() == pytest.approx(0, abs=0.1)


def test_the_bank_takes_the_embeddings_of_the_step_after_it() -> None:
    method = _method().train()
    batch = method.augment({key: value[[5, 2]] for key, value in _corpus().items()})
    before = method.bank.rows.clone()
    embeddings = _embed(method, batch).detach()
    method(batch)["loss"].backward()
    assert torch.equal(method.bank.rows, before)
    method.after_step(STEP)
    wanted = functional.normalize((before[[5, 2]] + embeddings) / 2)
    torch.testing.assert_close(method.bank.rows[[5, 2]], wanted)
    assert method.bank.instance[[5, 2]].tolist() == [5, 2]
    assert (method.bank.instance == NOBODY).sum() == PLACES - 2
    assert all(p.grad is None for p in method.bank.parameters())
    trained = {name for name, p in method.named_parameters() if p.grad is not None}
    assert trained == {
        name for name, _ in method.named_parameters() if name.startswith(("encoder", "projection"))
    }


def test_rows_of_near_moments_of_the_video_do_not_repel() -> None:
    """Two bins of one video lie 5 s apart: what the bank holds of either is no negative."""
    method = _method().eval()
    batch = method.augment({key: value[:4] for key, value in _corpus().items()})
    with torch.no_grad():
        method.bank.instance[:] = torch.arange(PLACES)
        method.bank.instance[7] = 0
        method.bank.time_s[7] = 5.0
        method.bank.rows[7] = _embed(method, batch)[0]
    kept = [n for n in range(PLACES) if n != 7]
    logits = _embed(method, batch) @ method.bank.rows.T / 0.2
    spared = functional.cross_entropy(logits[:1, kept], torch.tensor([0]))
    rest = functional.cross_entropy(logits[1:], torch.tensor([1, 2, 3]), reduction="sum")
    torch.testing.assert_close(method(batch)["loss"], (spared + rest) / 4)
    method.bank.time_s[7] = 20.0
    wanted = functional.cross_entropy(logits, batch["place"])
    torch.testing.assert_close(method(batch)["loss"], wanted)


def test_several_frames_of_a_sample_share_its_row() -> None:
    method = _method().train()
    corpus = {key: value[:3] for key, value in _corpus().items()}
    corpus["frames"] = corpus["frames"].expand(-1, 2, -1, -1, -1)
    corpus["time_s"] = torch.tensor([[0.0, 1.0]] * 3)
    metrics = method(method.augment(corpus))
    assert torch.isfinite(metrics["loss"])
    method.after_step(STEP)
    assert method.bank.time_s[:3].tolist() == [1.0, 1.0, 1.0]
    assert (method.bank.instance == NOBODY).sum() == PLACES - 3


def test_the_proximal_term_ties_embeddings_to_their_written_rows() -> None:
    method = _method(proximal=30.0).train()
    batch = method.augment({key: value[:4] for key, value in _corpus().items()})
    plain = method(batch)
    assert plain["drift"] == 0  # nothing is written yet
    method.after_step(STEP)
    method.eval()
    metrics = method(batch)
    moved = (_embed(method, batch) - method.bank.rows[:4]).square().sum(dim=1).mean()
    torch.testing.assert_close(metrics["drift"], moved)
    without = _method(proximal=0.0).eval()
    without.load_state_dict(method.state_dict())
    torch.testing.assert_close(metrics["loss"], without(batch)["loss"] + 30 * moved)


def test_images_with_too_few_negatives_are_skipped_and_counted() -> None:
    method = _method(places=4, min_negatives=3).eval()
    batch = method.augment(_corpus(4))
    with torch.no_grad():
        method.bank.instance[:] = torch.tensor([0, 0, 2, 3])  # row 1 shows image 0 too
        batch["instance"] = torch.tensor([0, 1, 2, 3])
    assert method(batch)["valid"].item() == pytest.approx(3 / 4)
    method.bank.instance[:] = 0
    batch["instance"] = torch.zeros(4, dtype=torch.int64)
    nothing = method(batch)
    assert nothing["loss"].item() == 0
    assert nothing["loss"].requires_grad


def test_a_bank_of_one_row_is_refused() -> None:
    with pytest.raises(SettingError, match=r"1 sample: a memory bank needs others"):
        _method(places=1)
