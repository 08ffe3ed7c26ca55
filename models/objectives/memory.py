"""What a method remembers of embeddings from earlier steps: a queue of keys, a bank of all samples.

Both hold the same rows on every rank: `hold` notes what a forward pass gave, `write` (from
`after_step`, once the gradient has been taken) gathers it from all ranks and writes it in rank
order. So a batch is never contrasted with its own keys, whatever the rounds of accumulation.

What they hold are frozen parameters, not buffers: DDP would send every buffer from rank 0 before
each forward pass, and a bank can be gigabytes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.errors import SettingError
from marey.models.objectives.distributed import gather_rows
from marey.models.objectives.fingerprints import UNKNOWN
from marey.models.objectives.info_nce import (
    FrameIds,
    NearDuplicates,
    negative_mask,
    similarity,
)

NOBODY = -1
"""Instance of a row that no sample has been written to yet: no near-duplicate of any other."""


class _Memory(nn.Module):
    """Unit rows, each with the frame that it shows."""

    rows: Tensor
    """float32 [K, D], of length 1; random before something is written."""
    instance: Tensor
    """int64 [K], the source video or image; `NOBODY` before something is written."""
    time_s: Tensor
    """float32 [K], the time in it, in seconds."""
    dhash: Tensor
    """int64 [K], the hash of the picture; `UNKNOWN` before something is written."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.rows = _kept(functional.normalize(torch.randn(size, dim)))
        self.instance = _kept(torch.full((size,), NOBODY))
        self.time_s = _kept(torch.zeros(size))
        self.dhash = _kept(torch.full((size,), UNKNOWN))
        self._held: list[tuple[Tensor, FrameIds, Tensor]] = []

    @property
    def frames(self) -> FrameIds:
        """What each row shows: [K]."""
        return FrameIds(self.instance, self.time_s, self.dhash)

    def _note(self, rows: Tensor, shown: FrameIds) -> None:
        """What the rows numbered `rows`, int64 [R], show from now on."""
        for kept, new in zip(self.frames, shown, strict=True):
            kept[rows] = new

    def _hold(self, rows: Tensor, shown: FrameIds, place: Tensor) -> None:
        if self.training:
            self._held.append((rows.detach().float(), shown, place))

    def _take(self) -> tuple[Tensor, FrameIds, Tensor] | None:
        """What all ranks hold, round after round, each in rank order; then nothing is held."""
        if not self._held:
            return None
        rounds = [
            (gather_rows(rows), shown.gathered(), gather_rows(place))
            for rows, shown, place in self._held
        ]
        self._held.clear()
        rows, shown, place = zip(*rounds, strict=True)
        frames = FrameIds(*(torch.cat(keys) for keys in zip(*shown, strict=True)))
        return torch.cat(rows), frames, torch.cat(place)


class Queue(_Memory):
    """The last K keys, in a ring (MoCo, arXiv 1911.05722, section 3.2)."""

    head: Tensor
    """int64 scalar: where the next key goes, and the oldest one is."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__(size, dim)
        self.head = _kept(torch.tensor(0))

    def hold(self, keys: Tensor, shown: FrameIds) -> None:
        """Note unit keys, float [R, D], of this step; `write` makes them the newest ones."""
        self._hold(keys, shown, torch.arange(len(keys), device=keys.device))

    @torch.no_grad()
    def write(self) -> None:
        """Put what was held behind the newest keys, over the oldest ones."""
        taken = self._take()
        if taken is None:
            return
        rows, shown, _ = taken
        count, size = len(rows), len(self.rows)
        slot = (self.head + torch.arange(count, device=rows.device)) % size
        last = slice(max(0, count - size), None)
        self.rows[slot[last]] = rows[last]
        self._note(slot[last], shown.at(last))
        self.head.copy_((self.head + count) % size)

    def negatives(self, frames: FrameIds, near_duplicates: NearDuplicates) -> Tensor:
        """bool [R, K]: the keys that are negatives of frame r: all but near-duplicates."""
        return negative_mask(frames, self.frames, near_duplicates)


class Bank(_Memory):
    """One row for every sample of an epoch, a running mean over epochs (InstDisc, section 3.2)."""

    written: Tensor
    """int64 [N], the write that last changed each row; -1 for none."""
    writes: Tensor
    """int64 scalar, how often `write` has been called."""

    def __init__(self, places: int, dim: int, keep: float = 0.5) -> None:
        """places: samples of an epoch. Raises SettingError for fewer than two."""
        if places < 2:
            raise SettingError(
                f"an epoch has {places} sample: a memory bank needs others to hold it against"
            )
        super().__init__(places, dim)
        self.keep = keep
        self.written = _kept(torch.full((places,), -1))
        self.writes = _kept(torch.tensor(0))

    def hold(self, place: Tensor, rows: Tensor, shown: FrameIds) -> None:
        """Note unit embeddings, float [R, D], of the samples numbered `place`, int64 [R]."""
        self._hold(rows, shown, place)

    @torch.no_grad()
    def write(self) -> None:
        """Each held row v becomes normalize(keep v + (1 - keep) embedding).

        Of several embeddings of one place the last counts, in order of rounds and ranks.
        """
        taken = self._take()
        if taken is None:
            return
        rows, shown, place = taken
        # Rows of one place all become what its last one says, so that none need be picked out: on
        # a GPU the host would have to wait for how many there are.
        number = torch.arange(len(place), device=place.device)
        last = torch.zeros_like(self.written).scatter_reduce(0, place, number, "amax")[place]
        mixed = torch.lerp(rows[last], self.rows[place], self.keep)
        self.rows[place] = functional.normalize(mixed)
        self._note(place, shown.at(last))
        self.written[place] = self.writes.expand(len(place))
        self.writes.add_(1)

    def negatives(
        self,
        place: Tensor,
        frames: FrameIds,
        near_duplicates: NearDuplicates,
        chosen: Tensor | None = None,
    ) -> Tensor:
        """bool [R, N], or [R, M] for rows `chosen`, int64 [R, M]: the negatives of sample r.

        Neither its own row nor those of near-duplicates.
        """
        if chosen is None:
            other = place[:, None] != torch.arange(len(self.rows), device=place.device)
            return other & negative_mask(frames, self.frames, near_duplicates)
        other = chosen != place[:, None]
        return other & negative_mask(frames, self.frames.at(chosen), near_duplicates)

    def draw(self, shape: torch.Size, count: int) -> Tensor:
        """Numbers of rows, uniform and with replacement: int64 [*shape, count], on the CPU."""
        return torch.randint(len(self.rows), (*shape, count))

    def scores(
        self, embeddings: Tensor, temperature: float, chosen: Tensor | None = None
    ) -> Tensor:
        """Cosines over the temperature with all rows, [R, N], or with chosen ones, [R, M].

        embeddings: float [R, D], of length 1; chosen: int64 [R, M].
        """
        if chosen is None:
            return similarity(embeddings, self.rows, temperature)
        with torch.autocast(embeddings.device.type, enabled=False):
            scaled = embeddings.float() / temperature
            return torch.einsum("rd,rmd->rm", scaled, self.rows[chosen])

    def age(self) -> Tensor:
        """Mean steps since the written rows were last changed; 0 when none is (float scalar)."""
        known = self.written >= 0
        steps = (self.writes - 1 - self.written).float()
        return torch.where(known, steps, 0.0).sum() / known.sum().clamp_min(1)

    def agreement(self, place: Tensor, embeddings: Tensor) -> Tensor:
        """Mean cosine between unit embeddings and their written rows; 0 when none is.

        What momentum and training since the last epoch have left of it: 1 is no staleness.
        """
        known = self.written[place] >= 0
        cosine = (embeddings.detach() * self.rows[place]).sum(dim=1)
        return torch.where(known, cosine, 0.0).sum() / known.sum().clamp_min(1)


def _kept(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
