"""BEiT, BERT over pictures: predict the visual words of masked patches.

    L = - mean over masked patches i of  log p(w_i | picture with masked patches)

w_i is the word of patch i in a k-means vocabulary. See docs/methods/masked_tokens.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.sampling import FramesSampling
from marey.models.augmentation import masking
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.dense_heads import PlaceHead, require_map
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.patchify import cell_side, hide, learned_tile, patchify, unpatchify
from marey.models.method import Method, register
from marey.models.objectives.arithmetic import full_precision
from marey.models.objectives.distributed import mean_over_ranks
from marey.models.objectives.tokens import Tokenizer, leaves, normalized_entropy, token_counts


class MaskedTokensConfig(MethodConfig):
    """Masked visual tokens; the vocabulary is fitted on patches of the first steps."""

    sampling: FramesSampling = FramesSampling()
    """Which frames or images are drawn."""
    grid: int = Field(default=14, ge=2, le=64)
    """Patches, and tokens, along each side of a picture (BEiT, section 2.1)."""
    rule: Literal["beit", "bert"] = "beit"
    """Blocks of patches, all of them hidden; or single ones, of which 80 % are hidden, 10 % show
    a random word of the vocabulary, and 10 % are left (BERT, section 3.1)."""
    mask_ratio: float = Field(default=75 / 196, gt=0, lt=1)
    """beit: share of the patches that are hidden (75 of 196 in the released code)."""
    least_block: float = Field(default=16 / 196, gt=0, lt=1)
    """beit: smallest area of a block as share of the picture (16 of 196 patches)."""
    select_ratio: float = Field(default=0.15, gt=0, lt=1)
    """bert: share of the patches that are predicted."""
    branching: int = Field(default=256, ge=2, le=65_536)
    """Centres of a k-means clustering of patches."""
    levels: int = Field(default=1, ge=1, le=6)
    """Levels of clusterings: the vocabulary has branching ^ levels words (VideoBERT: 12 ^ 4)."""
    fit_patches: int = Field(default=16_384, ge=16, le=10_000_000)
    """Patches that the vocabulary is fitted on; some fifty a word or more."""
    fit_steps: int = Field(default=1, ge=1, le=1000)
    """Steps they come from; the vocabulary changes until then, and never after."""
    seed: int = Field(default=0, ge=0)
    """Seed of the clustering."""
    augment: AugmentConfig = AugmentConfig(crop_scale=(0.2, 1.0), flip=0.5)
    """How pictures are augmented, before tokens are taken."""


@register
class MaskedTokens(Method):
    """Masked visual tokens, with any trunk.

    Tokens are k-means clusters of the patches' normalised pixels, taken from the very picture that
    the encoder sees; hidden patches are replaced in the picture by one learned tile.

    Batch: `frames` uint8 [B, F, H, W, 3], each frame an image of its own.
    """

    name = "masked_tokens"
    paper = (
        "Bao, Dong, Piao, Wei, BEiT: BERT Pre-Training of Image Transformers, ICLR 2022, "
        "arXiv 2106.08254 (masking of BERT: Devlin et al., NAACL 2019, arXiv 1810.04805)"
    )
    Config = MaskedTokensConfig
    config: MaskedTokensConfig

    def __init__(self, encoder: Encoder, config: MaskedTokensConfig) -> None:
        super().__init__(encoder, config)
        require_map(encoder, self.name)
        self.patch = cell_side(encoder.config.image_size, config.grid, "grid")
        self.tokenizer = Tokenizer(
            3 * self.patch**2,
            config.branching,
            config.levels,
            capacity=config.fit_patches,
            fit_steps=config.fit_steps,
            seed=config.seed,
        )
        self.head = PlaceHead(encoder, side=config.grid, values=self.tokenizer.size)
        self.tile = learned_tile(self.patch)

    @property
    def chance(self) -> Mapping[str, float]:
        """One in K for the K words; see `most_frequent` for the best constant answer."""
        return {"accuracy": 1 / self.tokenizer.size}

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts in place of `frames`, for L = grid x grid patches:

        - `images`, float32 [B, F, 3, S, S]: with random words where BERT's rule puts some;
        - `tokens`, int64 [B, F, L]: the words of the pictures as they were;
        - `mask`, bool [B, F, L]: hidden by the learned tile;
        - `selected`, bool [B, F, L]: to be predicted.
        """
        images = self.images(batch["frames"], self.config.augment)
        shape = images.shape[:2]
        patches = patchify(images.flatten(0, 1), self.patch)
        self.tokenizer.learn(patches.flatten(0, 1))
        tokens = self.tokenizer(patches)
        kind = self._kinds(*tokens.shape).to(tokens.device, non_blocking=True)
        if self.config.rule == "bert":
            patches = self._with_random_words(patches, kind)
            images = unpatchify(patches, self.patch, images.shape[-1]).unflatten(0, shape)
        return replace_frames(
            batch,
            images=images,
            tokens=tokens.unflatten(0, shape),
            mask=(kind == masking.MASKED).unflatten(0, shape),
            selected=(kind != masking.UNTOUCHED).unflatten(0, shape),
        )

    def _kinds(self, count: int, length: int) -> Tensor:
        config = self.config
        if config.rule == "bert":
            everywhere = torch.ones(count, length, dtype=torch.bool)
            return masking.bert_corruption(masking.bert_selection(everywhere, config.select_ratio))
        blocks = masking.block_mask(
            count,
            config.grid,
            config.grid,
            max(1, round(config.mask_ratio * length)),
            least=max(1, round(config.least_block * length)),
        )
        return blocks.flatten(1) * masking.MASKED

    def _with_random_words(self, patches: Tensor, kind: Tensor) -> Tensor:
        """Centres of words drawn from the whole vocabulary, where BERT's rule wants them."""
        _, centres = leaves(self.tokenizer.codebook)
        drawn = centres[torch.randint(len(centres), kind.shape).to(centres.device)]
        return torch.where((kind == masking.REPLACED)[..., None], drawn, patches)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        images, tokens, mask, selected = (
            batch[name].flatten(0, 1) for name in ("images", "tokens", "mask", "selected")
        )
        grid = (self.config.grid, self.config.grid)
        features = self.encoder.features(hide(images, mask.unflatten(1, grid), self.tile))
        logits = self.head(features)
        terms = token_terms(logits, tokens)
        counts = token_counts(tokens, self.tokenizer.size, selected)
        hit = (logits.argmax(dim=2) == tokens).float()
        loss = mean_over_ranks(terms, selected)
        return {
            "loss": loss,
            "accuracy": mean_over_ranks(hit, selected),
            "most_frequent": counts.max() / counts.sum().clamp_min(1),
            "token_entropy": normalized_entropy(tokens, self.tokenizer.size),
            "selected": selected.float().mean(),
            "vocabulary": self.tokenizer.mark().float(),
        }


def token_terms(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross entropy at every position, [N, L], of at least float32.

    logits: [N, L, K]; tokens: int64 [N, L] in [0, K).
    """
    return functional.cross_entropy(
        full_precision(logits).transpose(1, 2), tokens, reduction="none"
    )
