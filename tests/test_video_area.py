"""Pictures that lie on a device become small there, as the exact average over areas."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from marey.pipeline.video import read
from marey.pipeline.video.area import AreaConverter
from marey.pipeline.video.display import UPRIGHT
from marey.pipeline.video.fit import plan_geometry
from marey.pipeline.video.library_backends import LibraryDecoder, open_torchcodec
from marey.pipeline.video.stats import DecodeStats
from tests.test_video_fidelity import area_weights, photo, psnr
from tests.videos import encode_video


def small(picture: np.ndarray, size, **options) -> np.ndarray:
    height, width = picture.shape[:2]
    geometry = plan_geometry(width, height, Fraction(1), UPRIGHT, size, **options)
    out = np.empty((geometry.out_height, geometry.out_width, 3), np.uint8)
    AreaConverter().into(torch.from_numpy(picture), geometry, out)
    return out


@pytest.mark.parametrize("size", [56, (60, 100), (33, 180), (1, 1)])
def test_shrinking_is_the_exact_average_over_areas(size) -> None:
    picture = photo(320, 180)(0)
    got = small(picture, size)
    down, across = area_weights(180, got.shape[0]), area_weights(320, got.shape[1])
    exact = np.einsum("hH,HWc,wW->hwc", down, picture.astype(float), across)
    assert np.abs(got - exact).max() <= 0.5 + 1e-3


def test_the_part_that_is_taken_is_that_of_the_geometry() -> None:
    picture = photo(320, 180)(0)
    assert np.array_equal(small(picture, None), picture)
    assert np.array_equal(small(picture, None, box=(0.5, 0.0, 0.5, 1.0)), picture[:, 160:])
    square = small(picture, (45, 45), fit="cover")
    assert np.array_equal(square, small(picture[:, 70:250].copy(), (45, 45)))


@pytest.mark.parametrize("size", [(96, 128), (96, 32)])
def test_growing_goes_on_between_the_pixels(size) -> None:
    """A ramp stays the ramp, also where the other side shrinks; at its ends there is nothing."""
    ramp = np.repeat(np.arange(48, dtype=np.uint8)[:, None, None] * 5, 64, 1).repeat(3, 2)
    got = small(ramp, size)
    expected = (np.arange(96) + 0.5) * 2.5 - 2.5
    assert got.shape == (*size, 3)
    assert np.abs(got - expected[:, None, None])[6:-6].max() <= 1


def decoded(decoder: LibraryDecoder, wanted: list[int], size: int) -> Iterator[np.ndarray]:
    for _, picture in decoder.pictures(np.array(wanted)):
        assert isinstance(picture, torch.Tensor)
        out = np.empty((*decoder.output_shape(picture, size, "stretch", None), 3), np.uint8)
        decoder.convert(picture, size, "stretch", None, out)
        yield out


def test_a_library_that_gives_tensors_delivers_small_arrays(tmp_path: Path) -> None:
    """More frames than are asked for at once, each beside libswscale's of the same picture."""
    path = str(encode_video(tmp_path / "a.mp4", 40, size=(320, 180), draw=photo(320, 180)))
    full = torch.from_numpy(read(path, np.arange(40) / 25))
    wanted = [0, *range(3, 40, 2)]
    decoder = LibraryDecoder(
        path, 0, float("inf"), DecodeStats(), lambda source, timeline: lambda k: full[k],
        AreaConverter(),
    )  # fmt: skip
    ours = read(path, np.array(wanted) / 25, 60)
    got = list(decoded(decoder, wanted, 60))
    assert len(got) == len(wanted)
    assert min(map(psnr, got, ours)) > 38


def test_torchcodec_gives_its_pictures_where_they_become_small(tmp_path: Path) -> None:
    """As on a GPU, but for the device."""
    pytest.importorskip("torchcodec")
    path = str(encode_video(tmp_path / "a.mp4", 40, size=(320, 180), draw=photo(320, 180)))
    wanted = list(range(0, 40, 2))
    decoder = open_torchcodec(path, 0, 1, float("inf"), DecodeStats(), "cpu")
    ours = read(path, np.array(wanted) / 25, 60)
    assert min(map(psnr, decoded(decoder, wanted, 60), ours)) > 35
