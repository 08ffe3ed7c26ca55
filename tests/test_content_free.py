"""Is interpolation a fair opponent of what reconstructs pixels?"""

import pytest
import torch

from marey.models.encoders.patchify import patchify, spread
from marey.models.objectives.content_free import filled_from_around
from marey.models.objectives.reconstruction import reconstruction


def ramp(side: int = 32) -> torch.Tensor:
    """Brightness that rises to the right: float [1, 3, side, side]."""
    return torch.linspace(0, 1, side).expand(1, 3, side, side).clone()


def centre_hidden(side: int = 32) -> torch.Tensor:
    hidden = torch.zeros(1, 1, side, side, dtype=torch.bool)
    hidden[..., side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = True
    return hidden


def test_what_is_visible_stays_and_what_is_hidden_is_never_looked_at() -> None:
    hidden = centre_hidden()
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    filled = filled_from_around(image, hidden)
    assert torch.equal(filled.masked_select(~hidden), image.masked_select(~hidden))
    other = torch.where(hidden, 99.0, image)
    assert torch.equal(filled_from_around(other, hidden), filled)


def test_even_pictures_are_filled_exactly_and_smooth_ones_nearly() -> None:
    hidden = centre_hidden()
    even = torch.full((1, 3, 32, 32), 0.3)
    torch.testing.assert_close(filled_from_around(even, hidden), even)
    error = (filled_from_around(ramp(), hidden) - ramp()).abs()[hidden.expand(-1, 3, -1, -1)]
    blind = (ramp() - 0.5).abs()[hidden.expand(-1, 3, -1, -1)]
    assert error.mean() < 0.5 * blind.mean()


def test_a_picture_without_any_visible_pixel_becomes_zero() -> None:
    filled = filled_from_around(ramp(), torch.ones(1, 1, 32, 32, dtype=torch.bool))
    assert torch.equal(filled, torch.zeros_like(filled))


@pytest.mark.parametrize("norm_pix", [False, True])
def test_an_answer_that_interpolates_has_nothing_over_interpolation(norm_pix: bool) -> None:
    """Whoever answers with the filling is at 1, whoever knows the pixels at 0."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, 32, mode="bilinear", align_corners=True)
    mask = torch.rand(4, 8, 8, generator=generator) < 0.6
    filled = patchify(filled_from_around(images, spread(mask, 32, 32)[:, None]), 4)
    patches = patchify(images, 4)

    def scored(predicted: torch.Tensor) -> dict[str, torch.Tensor]:
        return reconstruction(
            predicted, patches, mask.flatten(1), norm_pix=norm_pix, squared=True, filled=filled
        )

    if not norm_pix:
        own = scored(filled)
        assert own["error_over_fill"].item() == pytest.approx(1, abs=1e-3)
        assert own["fill_error"].item() == pytest.approx(own["relative_error"].item(), abs=1e-3)
        assert scored(patches)["error_over_fill"] == 0
    assert 0 < scored(filled)["fill_error"] < 1
