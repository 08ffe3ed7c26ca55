"""Which world is each preset's, which figure tells whether it has learned, what could be had?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import clip_oracles as clips
from benchmarks import picture_oracles as pictures
from benchmarks import world_oracles as oracles
from marey.models.batch import Batch
from marey.models.method import Method

Oracle = Callable[[Method, Batch], oracles.Score]
Taught = Callable[[Method, pictures.Seen], Oracle]
"""Makes an oracle of the augmented training part."""
RETRIEVAL = "retrieval"
"""The figure of methods that compare crops: how often is the nearest other crop, among those of all
held-out pictures, one of the same picture? The crops are those of the preset `simclr` for all."""


@dataclass(frozen=True, slots=True)
class Task:
    """A preset's world, the figure that tells whether it has learned, and what could be had."""

    world: str
    metric: str
    oracle: Oracle | None
    """None where the figure is `retrieval`, whose ceiling is read from the crops."""
    steps: int
    views: int = 1
    pictures: bool = False
    """Whether the world is one of stills."""
    taught: Taught | None = None
    """In place of `oracle`: one that has seen the training part."""


def _instance(steps: int) -> Task:
    return Task("textures", RETRIEVAL, None, steps, pictures=True)


def _board(metric: str, taught: Taught, steps: int) -> Task:
    return Task("board", metric, None, steps, pictures=True, taught=taught)


def _stripes(metric: str, oracle: Oracle, steps: int) -> Task:
    return Task("stripes", metric, oracle, steps, pictures=True)


TASKS = {
    "arrow_of_time": Task("walking", "accuracy", oracles.arrow, 250),
    "clip_order": Task("clock", "accuracy", oracles.clip_order, 200),
    "cpc": Task("clock", "time_information", oracles.next_angle, 200),
    "mf_tcn": Task("process", "retrieval_top1", oracles.embedded("retrieval_top1"), 100, views=2),
    "odd_one_out": Task("clock", "accuracy", oracles.odd_one_out, 200),
    "playback_speed": Task("clock", "accuracy", oracles.speed, 150),
    "shuffle_and_learn": Task("process", "balanced_accuracy", oracles.between, 300),
    "sort_frames": Task("clock", "accuracy", oracles.sort, 300),
    "tcc": Task("process", "match_error", oracles.embedded("match_error"), 200),
    "tcc_tcn": Task("process", "match_error", oracles.embedded("match_error"), 200),
    "tcn": Task("process", "retrieval_top1", oracles.embedded("retrieval_top1"), 200, views=2),
    "tcn_single": Task("process", "ordering", oracles.embedded("ordering"), 200),
    "dense_cpc": Task("clock", "time_information", clips.next_cells, 200),
    "masked_frames": Task("clock", "accuracy_over_copy", clips.words_of_angles, 200),
    "random_walk": Task("wander", "walk_accuracy", clips.walked_pixels, 300),
    "st_dim": Task("clock", "time_auc", oracles.known_time, 200),
    "v_jepa": Task("stripes", "relative_error", clips.painted_features, 200),
    "v_jepa2": Task("stripes", "relative_error", clips.painted_features, 200),
    "siam_mae": Task("stripes", "relative_error", pictures.painted_pairs, 400),
    "latent_prediction": Task("clock", "relative_error", oracles.predicted, 250),
    "videomae": Task("stripes", "error_over_fill", clips.painted_tubes, 200),
    "rotation": _board("accuracy", pictures.turned, 60),
    "jigsaw": _board("accuracy", pictures.shuffled, 100),
    "relative_position": _board("accuracy", pictures.beside, 100),
    "colorization": _board("information", pictures.colored, 100),
    "masked_pixels": _stripes("error_over_fill", pictures.painted_cells, 150),
    "mae": _stripes("error_over_fill", pictures.painted_cells, 150),
    "crop_mae": _stripes("relative_error", pictures.painted_pairs, 400),
    "context_encoder": _stripes("explained_over_fill", pictures.painted_holes, 150),
    "masked_tokens": _stripes("accuracy", pictures.painted_words, 150),
    **{
        preset: _instance(200)
        for preset in (
            "simclr", "moco_v1", "moco_v2", "moco_v3", "byol", "simsiam", "barlow_twins", "vicreg",
            "swav", "dino", "lejepa", "instdisc", "local_aggregation", "cmc", "deep_infomax",
            "cpc_patches", "cpc_patches_v2",
        )
    },
}  # fmt: skip
"""Preset -> its task."""
WITHOUT = {
    "clip_byol": "clips of one video: textures in motion need more videos than a world has",
    "clip_moco": "as clip_byol",
    "clip_simclr": "as clip_byol",
    "mono_depth": "rooms with depth are drawn for tests alone (tests/depth_scenes.py)",
    "stereo_depth": "as mono_depth",
    "s4l_exemplar": "labels say what is right",
    "s4l_rotation": "labels say what is right",
    "sla": "labels say what is right",
    "tracked_patches": "samples are mined by trackers, which have worlds of their own",
}
"""Presets that have no world yet, and why."""
