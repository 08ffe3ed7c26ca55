"""Masked frames (VideoBERT, CBT): predict masked frames of a clip from the others.

    L = - w_token  log p(w_t)
        - w_contrast  log  exp(y_t e_t / tau) / ( exp(y_t e_t / tau) + sum_n exp(y_t e_n / tau) )

w_t is the visual word of masked frame t, e_t its embedding, y_t the prediction, e_n negatives. See
docs/methods/masked_frames.md.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from marey.configs.base import MethodConfig
from marey.configs.errors import SettingError
from marey.configs.sampling import ClipsSampling
from marey.models.augmentation import masking
from marey.models.augmentation.augment import AugmentConfig
from marey.models.batch import Batch, replace_frames
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.sines import sincos
from marey.models.encoders.transformer import Blocks, start, take
from marey.models.method import Method, register
from marey.models.objectives.arithmetic import full_precision
from marey.models.objectives.distributed import gather_rows, mean_over_ranks, own_rows
from marey.models.objectives.info_nce import close_in_time, frame_ids, info_nce, similarity
from marey.models.objectives.tokens import Tokenizer, normalized_entropy, token_counts

PLACES_PER_SECOND = 10.0
"""Scale of the position embedding: its shortest wave has a period of 0.6 s."""
DISTINCT = 3
"""Words that a sequence must hold: a still one is solved by copying."""


class MaskedFramesConfig(MethodConfig):
    """Masked frame model: a transformer over the frames of one clip."""

    sampling: ClipsSampling = ClipsSampling(num_frames=16, spacing_s=0.5)
    """Which clips are drawn, one a sample."""
    mask_ratio: float = Field(default=0.4, gt=0, le=0.5)
    """Share of the frames that are selected, in spans."""
    mean_span: float = Field(default=3.0, ge=1, le=100)
    """Mean length of a span in frames; single frames are solved by copying a neighbour."""
    longest_span: int = Field(default=10, ge=1, le=100)
    """Longest span in frames."""
    token_weight: float = Field(default=1.0, ge=0, le=100)
    """Weight of predicting the word of a hidden frame (VideoBERT); 0 leaves the head out."""
    contrast_weight: float = Field(default=1.0, ge=0, le=100)
    """Weight of telling a hidden frame's embedding from others (contrastive bidirectional
    transformers, arXiv 1906.05743); 0 leaves the head out."""
    branching: int = Field(default=1024, ge=3, le=65_536)
    """Centres of a k-means clustering of frames; fifty frames a word or more are wanted."""
    levels: int = Field(default=1, ge=1, le=6)
    """Levels of clusterings: the vocabulary has branching ^ levels words (VideoBERT: 12 ^ 4)."""
    words_of: Literal["frame", "change"] = "frame"
    """What a word describes: a frame, or how it differs from its clip's mean, so that one scene's
    look is not all there is to say."""
    fit_frames: int = Field(default=65_536, ge=16, le=10_000_000)
    """Frames that the vocabulary is fitted on at most."""
    fit_steps: int = Field(default=64, ge=1, le=10_000)
    """Steps they come from; the vocabulary changes until then, and never after."""
    seed: int = Field(default=0, ge=0)
    """Seed of the clustering."""
    temperature: float = Field(default=0.1, gt=0, le=10)
    """Temperature of the contrast."""
    instance_s: float | None = Field(default=None, ge=0)
    """Frames of one video closer than this are no negatives; unset: two spacings of the clip."""
    width: int = Field(default=128, ge=16, le=4096)
    """Width of the transformer over time."""
    depth: int = Field(default=2, ge=1, le=48)
    """Its blocks."""
    heads: int = Field(default=4, ge=1, le=64)
    """Its attention heads; they divide the width."""
    augment: AugmentConfig = AugmentConfig(
        crop_scale=(0.7, 1.0), jitter=0.8, brightness=0.3, contrast=0.3, saturation=0.3
    )
    """One crop for the clip, colours for each frame: a copied neighbour should not look right."""

    @model_validator(mode="after")
    def _some_head(self) -> MaskedFramesConfig:
        if not self.token_weight and not self.contrast_weight:
            raise ValueError("one of token_weight and contrast_weight must be above 0")
        return self


@register
class MaskedFrames(Method):
    """Masked frame model; what is exported is the encoder of single frames.

    Words are k-means clusters of what the encoder, as it was at the start, says of a frame: of
    pretrained weights as VideoBERT does, or of random ones.

    Batch: `frames` uint8 [B, T, H, W, 3]; `time_s` float32 [B, T]; `instance` int64 [B].
    """

    name = "masked_frames"
    paper = (
        "Sun, Myers, Vondrick, Murphy, Schmid, VideoBERT: A Joint Model for Video and Language "
        "Representation Learning, ICCV 2019, arXiv 1904.01766"
    )
    Config = MaskedFramesConfig
    config: MaskedFramesConfig

    def __init__(self, encoder: Encoder, config: MaskedFramesConfig) -> None:
        super().__init__(encoder, config)
        if config.sampling.clips != 1:
            raise SettingError(
                f"masked_frames takes one clip a sample: method.sampling.clips must be 1, not "
                f"{config.sampling.clips}; set per_video for more of one video"
            )
        self.project = nn.Linear(encoder.out_dim, config.width)
        self.unseen = nn.Parameter(torch.zeros(config.width))
        nn.init.trunc_normal_(self.unseen, std=0.02)
        self.blocks = Blocks(config.width, config.depth, config.heads)
        self.first = copy.deepcopy(encoder).requires_grad_(False).eval()
        side, device = encoder.config.image_size, self.unseen.device
        described = self._described(torch.zeros(1, 3, side, side, device=device))
        self.tokenizer = Tokenizer(
            described.shape[1],
            config.branching,
            config.levels,
            capacity=config.fit_frames,
            fit_steps=config.fit_steps,
            seed=config.seed,
        )
        if config.token_weight:
            self.word = nn.Linear(config.width, self.tokenizer.size)
        if config.contrast_weight:
            self.regress = nn.Linear(config.width, encoder.out_dim)
        for layer in self.children():
            if isinstance(layer, nn.Linear):
                start(layer)

    def train(self, mode: bool = True) -> MaskedFrames:
        """As for any module, except that the encoder behind the words never trains."""
        super().train(mode)
        self.first.eval()
        return self

    @property
    def chance(self) -> Mapping[str, float]:
        """What copying the nearest visible frame has, which needs no learning (`..._over_copy`);
        one in K words; nothing known of which frame it is."""
        chance = {}
        if self.config.token_weight:
            chance |= {"accuracy_over_copy": 0.0, "accuracy": 1 / self.tokenizer.size}
        if self.config.contrast_weight:
            chance |= {"information_over_copy": 0.0, "information": 0.0}
        return chance

    @torch.no_grad()
    def augment(self, batch: Batch) -> Batch:
        """Puts in place of `frames`:

        - `images`, float32 [B, T, 3, S, S];
        - `tokens`, int64 [B, T]: the words of the frames, as they came;
        - `selected`, bool [B, T]: to be predicted; `hidden`, bool [B, T]: those not shown at all;
        - `source`, int64 [B, T]: which frame of the clip stands in each place (another one where
          BERT's rule asks for a random one).
        """
        config, frames = self.config, batch["frames"]
        count, length = frames.shape[:2]
        clean = self.encoder.preprocess(frames.flatten(0, 1))
        described = self._described(clean).unflatten(0, (count, length))
        if config.words_of == "change":
            described = described - described.mean(dim=1, keepdim=True)
        self.tokenizer.learn(described.flatten(0, 1))
        everywhere = torch.ones(count, length, dtype=torch.bool)
        selected, span = masking.span_selection(
            everywhere, config.mask_ratio, config.mean_span, config.longest_span
        )
        kind = masking.bert_corruption(selected, span)
        own = torch.arange(length).expand(count, length)
        other = (own + torch.randint(1, max(2, length), own.shape)) % length
        placed = {
            "selected": selected,
            "hidden": kind == masking.MASKED,
            "source": torch.where(kind == masking.REPLACED, other, own),
        }
        placed = {name: part.to(frames.device) for name, part in placed.items()}
        images = self.images(frames, config.augment, shared=length)
        return replace_frames(batch, images=images, tokens=self.tokenizer(described), **placed)

    @torch.no_grad()
    def _described(self, images: Tensor) -> Tensor:
        """What the first encoder's pooled map says of images: float32 [N, D]."""
        with torch.autocast(images.device.type, enabled=False):
            return self.first.pool(self.first.features(images.float())).float()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        tokens, selected = batch["tokens"], batch["selected"]
        embeddings = self.encoder(batch["images"].flatten(0, 1))
        inputs = take(self.project(embeddings).unflatten(0, tokens.shape), batch["source"])
        inputs = torch.where(batch["hidden"][..., None], self.unseen.to(inputs.dtype), inputs)
        elapsed = batch["time_s"] - batch["time_s"][:, :1]
        positions = sincos(PLACES_PER_SECOND * elapsed[..., None], config.width)
        outputs = self.blocks(inputs + positions)

        moving = distinct(tokens) >= DISTINCT
        counted = selected & moving[:, None]
        neighbour = nearest_visible(batch["time_s"], selected)
        metrics = {
            "refused": 1 - moving.float().mean(),
            "selected": selected.float().mean(),
            "embedding_std": embeddings.detach().float().std(dim=0).mean(),
        }
        # all weights stay in the graph if every sequence is refused
        losses = [0 * outputs.float().sum()]
        if config.token_weight:
            logits = full_precision(self.word(outputs))
            loss, values = self._words(logits, tokens, counted, neighbour)
            losses.append(config.token_weight * loss)
            metrics |= values
        if config.contrast_weight:
            loss, values = self._contrast(
                self.regress(outputs), embeddings, batch, counted, neighbour
            )
            losses.append(config.contrast_weight * loss)
            metrics |= values
        return {"loss": torch.stack(losses).sum(), **metrics}

    def _words(
        self, logits: Tensor, tokens: Tensor, counted: Tensor, neighbour: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        terms = functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
        copied = tokens.gather(1, neighbour) == tokens
        counts = token_counts(tokens, self.tokenizer.size)
        loss = mean_over_ranks(terms.view_as(tokens), counted)
        accuracy = mean_over_ranks((logits.argmax(dim=2) == tokens).float(), counted)
        copy_accuracy = mean_over_ranks(copied.float(), counted)
        return loss, {
            "token_loss": loss.detach(),
            "accuracy": accuracy,
            "copy_accuracy": copy_accuracy,
            "accuracy_over_copy": accuracy - copy_accuracy,
            "most_frequent_accuracy": mean_over_ranks((tokens == counts.argmax()).float(), counted),
            "token_entropy": normalized_entropy(tokens, self.tokenizer.size),
            "vocabulary": self.tokenizer.mark().float(),
        }

    def _contrast(
        self,
        predicted: Tensor,
        embeddings: Tensor,
        batch: Batch,
        counted: Tensor,
        neighbour: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        within_s = config.instance_s
        if within_s is None:
            within_s = 2 * config.sampling.spacing_s
        rows = frame_ids(batch)
        columns = rows.gathered()
        # what rounding makes of two spacings is not farther than two spacings
        close = close_in_time(rows, columns, within_s + 1e-3)
        other_video = rows.instance[:, None] != columns.instance[None, :]
        negative = ~close & (~other_video | gather_rows(batch["selected"].flatten().int()).bool())
        positive = own_rows(rows.instance)
        keys = functional.normalize(full_precision(embeddings.detach()), dim=1)
        queries = functional.normalize(full_precision(predicted).flatten(0, 1), dim=1)
        copies = take(keys.unflatten(0, neighbour.shape), neighbour).flatten(0, 1)
        keys = gather_rows(keys)
        terms = info_nce(similarity(queries, keys, config.temperature), positive, negative)
        copied = info_nce(similarity(copies, keys, config.temperature), positive, negative)
        counted = counted.flatten() & terms.counted
        loss = mean_over_ranks(terms.loss, counted)
        information = mean_over_ranks(terms.information, counted)
        # of a predictor that answers with the nearest frame that is shown
        copy_information = mean_over_ranks(copied.information, counted)
        return loss, {
            "contrast_loss": loss.detach(),
            "information": information,
            "copy_information": copy_information,
            "information_over_copy": information - copy_information,
            "top1": mean_over_ranks(terms.hit.float(), counted),
            "copy_top1": mean_over_ranks(copied.hit.float(), counted),
        }


def distinct(tokens: Tensor) -> Tensor:
    """How many different words each row holds: int64 [B, T] -> [B]."""
    ordered = tokens.sort(dim=1).values
    return 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1)


def nearest_visible(time_s: Tensor, selected: Tensor) -> Tensor:
    """Of each frame, the nearest frame of its clip that is not selected: int64 [B, T].

    time_s: float [B, T]; selected: bool [B, T]. Of two at one distance the earlier one.
    """
    apart = (time_s[:, :, None] - time_s[:, None, :]).abs()
    return apart.masked_fill(selected[:, None, :], torch.inf).argmin(dim=2)
