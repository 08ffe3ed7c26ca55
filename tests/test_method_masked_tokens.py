"""Does masked token prediction tell hidden words, from the picture around them and nothing else?"""

import math

import pytest
import torch

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import SettingError
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch
from marey.models.context.masked_tokens import MaskedTokens, MaskedTokensConfig, token_terms
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.patchify import hide, patchify
from marey.models.objectives.distributed import mean_over_ranks
from marey.models.objectives.tokens import leaves
from tests.learning import train
from tests.test_method_masked_pixels import noise

COLOURS = torch.rand(8, 3, generator=torch.Generator().manual_seed(9))


def _method(**settings: object) -> MaskedTokens:
    torch.manual_seed(0)
    config = MaskedTokensConfig.model_validate(
        {"grid": 8, "branching": 8, "augment": AugmentConfig(), **settings}
    )
    return MaskedTokens(Encoder(EncoderConfig(stages=2, image_size=32)), config)


def _flags(generator: torch.Generator, count: int = 32) -> Batch:
    """Pictures of two colours, one above the other: a hole's word can be told from its height."""
    chosen = torch.randint(8, (count, 2), generator=generator)
    tall = COLOURS[chosen].repeat_interleave(16, dim=1)[:, :, None].expand(-1, -1, 32, -1)
    return {
        "frames": (tall * 255).round().byte()[:, None],
        "time_s": torch.zeros(count, 1),
        "instance": torch.arange(count),
    }


def test_uniform_logits_cost_log_k_and_a_sure_right_answer_nothing() -> None:
    tokens = torch.randint(8192, (2, 5))
    terms = token_terms(torch.zeros(2, 5, 8192), tokens)
    torch.testing.assert_close(terms, torch.full((2, 5), math.log(8192)))
    assert round(math.log(8192), 4) == 9.0109
    sure = 50.0 * torch.nn.functional.one_hot(tokens, 8192)
    assert token_terms(sure, tokens).max() < 1e-3


def test_the_loss_is_that_of_a_slow_formulation() -> None:
    logits = torch.randn(2, 6, 5, dtype=torch.float64)
    tokens, selected = torch.randint(5, (2, 6)), torch.rand(2, 6) < 0.5
    terms = []
    for n, i in selected.nonzero().tolist():
        row = logits[n, i].tolist()
        terms.append(math.log(sum(math.exp(x) for x in row)) - row[tokens[n, i]])
    loss = mean_over_ranks(token_terms(logits, tokens), selected)
    assert loss.item() == pytest.approx(sum(terms) / len(terms), abs=1e-10)


def test_only_selected_positions_have_gradient() -> None:
    logits = torch.randn(2, 6, 5, dtype=torch.float64, requires_grad=True)
    tokens, selected = torch.randint(5, (2, 6)), torch.tensor([[1, 0, 0, 1, 0, 0]] * 2) > 0
    mean_over_ranks(token_terms(logits, tokens), selected).backward()
    assert (logits.grad[~selected] == 0).all()
    assert (logits.grad[selected] != 0).all()
    changed = torch.where(selected[..., None], logits, logits + torch.randn_like(logits))
    torch.testing.assert_close(
        mean_over_ranks(token_terms(changed, tokens), selected),
        mean_over_ranks(token_terms(logits, tokens), selected),
    )
    assert torch.autograd.gradcheck(
        lambda x: mean_over_ranks(token_terms(x, tokens), selected), logits
    )


@pytest.mark.parametrize("rule", ["beit", "bert"])
def test_labels_are_the_words_of_the_picture_as_it_was(rule: str) -> None:
    method = _method(rule=rule, select_ratio=0.5)
    raw = _flags(torch.Generator().manual_seed(0))
    batch = method.augment(raw)
    clean = patchify(method.images(raw["frames"], AugmentConfig()).flatten(0, 1), 4)
    assert torch.equal(batch["tokens"].flatten(0, 1), method.tokenizer(clean))
    assert not (batch["mask"] & ~batch["selected"]).any()


def test_beit_hides_all_it_selects_equally_much_in_every_picture() -> None:
    batch = _method().augment(_flags(torch.Generator().manual_seed(0)))
    assert torch.equal(batch["mask"], batch["selected"])
    assert set(batch["mask"].sum(2).flatten().tolist()) == {round(75 / 196 * 64)}


def test_berts_random_words_are_words_of_the_vocabulary() -> None:
    method = _method(rule="bert", select_ratio=0.5)
    raw = noise(torch.Generator().manual_seed(0), 64)
    batch = method.augment(raw)
    clean = patchify(method.images(raw["frames"], AugmentConfig()).flatten(0, 1), 4)
    shown = patchify(batch["images"].flatten(0, 1), 4)
    changed = (shown != clean).any(2)
    selected, mask = batch["selected"].flatten(0, 1), batch["mask"].flatten(0, 1)
    assert not (changed & (~selected | mask)).any()
    share = changed.sum() / selected.sum()
    assert share.item() == pytest.approx(0.1, abs=0.03)
    _, centres = leaves(method.tokenizer.codebook)
    assert torch.cdist(shown[changed], centres).min(1).values.max() < 1e-2


def test_the_network_sees_no_hidden_pixel() -> None:
    method = _method().eval()
    batch = method.augment(noise(torch.Generator().manual_seed(0), 4))
    fine = batch["mask"].view(4, 1, 1, 8, 8).repeat_interleave(4, 3).repeat_interleave(4, 4)
    other = torch.where(fine, torch.randn_like(batch["images"]), batch["images"])
    with torch.no_grad():
        first, second = method(batch), method({**batch, "images": other})
    assert torch.equal(first["loss"], second["loss"])


def test_where_the_map_is_finer_or_coarser_than_the_grid_words_keep_their_places() -> None:
    for grid in (4, 8, 16):
        method = _method(grid=grid)
        features = torch.zeros(1, 64, 8, 8)
        features[..., 0, 7] = 1  # top right
        with torch.no_grad():
            change = (method.head(features) - method.head(torch.zeros_like(features))).abs().sum(2)
        touched = change.view(grid, grid) > 0
        assert touched[0, -1]
        assert not touched[max(1, grid // 8) :].any()
        assert not touched[:, : grid - max(1, grid // 8)].any()


def test_it_learns_words_from_the_picture_around() -> None:
    method = _method()
    metrics = train(method, _flags, steps=60)
    assert method.chance == {"accuracy": 1 / 8}
    assert metrics["accuracy"] > 0.7
    assert metrics["accuracy"] > metrics["most_frequent"] + 0.3


def test_words_of_noise_stay_at_chance() -> None:
    metrics = train(_method(), noise, steps=25)
    assert metrics["accuracy"] < metrics["most_frequent"] + 0.02


def test_a_tree_of_words_is_predicted_too() -> None:
    method = _method(branching=3, levels=2)
    metrics = method(method.augment(_flags(torch.Generator().manual_seed(0))))
    assert method.tokenizer.size == 9
    assert metrics["loss"].isfinite()


def test_the_vocabulary_and_its_digest_are_in_the_checkpoint() -> None:
    method = _method()
    batch = method.augment(_flags(torch.Generator().manual_seed(0)))
    other = _method(seed=3)
    other.load_state_dict(method.state_dict())
    shown = hide(batch["images"].flatten(0, 1), torch.zeros(32, 8, 8) > 0, method.tile)
    patches = patchify(shown, 4)
    assert torch.equal(other.tokenizer(patches), method.tokenizer(patches))
    assert bytes(other.tokenizer.digest.tolist()) == method.tokenizer.codebook.digest()
    assert other(batch)["vocabulary"] == method(batch)["vocabulary"]


def test_a_grid_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SettingError, match=r"method\.grid=7"):
        _method(grid=7)
