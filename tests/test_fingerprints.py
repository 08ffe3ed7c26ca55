"""Are near copies found, whatever was done to them, and other pictures not?"""

import torch

from marey.models.objectives.fingerprints import UNKNOWN, dhash, same_picture, same_picture_each
from tests.pictures import noise, smooth


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _slow(first: int, second: int) -> int:
    return ((first ^ second) & (2**64 - 1)).bit_count()


def test_hashes_compare_cells_with_their_right_neighbours() -> None:
    cells = torch.randint(0, 256, (3, 8, 9), generator=_generator()).byte()
    frames = cells.repeat_interleave(3, 1).repeat_interleave(3, 2)[..., None].expand(-1, -1, -1, 3)
    got = dhash(frames.contiguous())
    for picture, found in zip(cells.tolist(), got.tolist(), strict=True):
        bits = [row[x] > row[x + 1] for row in picture for x in range(8)]
        assert found & (2**64 - 1) == sum(bit << place for place, bit in enumerate(bits))


def test_copies_are_found_and_others_are_not() -> None:
    pictures = smooth(64, 96, _generator())
    darker = (pictures.float() * 0.7 + 20).round().byte()
    noisy = (pictures.short() + noise(64, 96, _generator()).short() // 32 - 4).clamp(0, 255).byte()
    hashes = dhash(pictures)
    for copies in (pictures, darker, noisy):
        same = same_picture(hashes, dhash(copies), 4)
        assert same.diagonal().float().mean() >= 0.95
        assert not (same & ~torch.eye(64, dtype=torch.bool)).any()


def test_both_comparisons_count_the_bits_that_differ() -> None:
    rows = torch.randint(-(2**63), 2**63 - 1, (5,), generator=_generator())
    columns = rows[torch.randint(5, (40,), generator=_generator())]
    for flips in range(8):  # up to eight bits are flipped
        columns[flips * 5 :] ^= 1 << int(torch.randint(63, (), generator=_generator()))
    columns[3] = -(2**63)
    for bits in (0, 2, 4):
        wanted = [[_slow(a, b) <= bits for b in columns.tolist()] for a in rows.tolist()]
        assert same_picture(rows, columns, bits).tolist() == wanted
        chosen = columns.expand(5, -1).contiguous()
        kept = chosen.clone()
        assert same_picture_each(rows, chosen, bits).tolist() == wanted
        assert torch.equal(chosen, kept)


def test_pictures_without_contrast_are_like_no_other() -> None:
    flat = torch.full((2, 32, 32, 3), 80, dtype=torch.uint8)
    hashes = dhash(flat)
    assert hashes.tolist() == [UNKNOWN, UNKNOWN]
    assert not same_picture(hashes, hashes, 4).any()
    assert not same_picture_each(hashes, hashes[None].expand(2, -1), 4).any()


def test_samples_of_several_frames_have_a_hash_each() -> None:
    pictures = smooth(6, 48, _generator())
    assert torch.equal(dhash(pictures.view(2, 3, 48, 48, 3)), dhash(pictures).view(2, 3))
