"""One protocol on what it measures: the figures, and the text table that shows them.

Chance is given beside every figure that has one; a `baseline` (embeddings of an untrained encoder,
say) runs through the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from marey.configs import plugins
from marey.configs.base import Settings
from marey.configs.errors import InputError, SettingError
from marey.pipeline.embedding.embeddings import Embeddings, load_embeddings
from marey.pipeline.evaluate.label_protocols import Figures, Location, labelled_as
from marey.pipeline.evaluate.labels import Labels, composed
from marey.pipeline.evaluate.protocols import Inputs, Protocol, find_protocol


def run_eval(
    protocol: str,
    target: Location | Embeddings,
    /,
    *,
    data: Location | None = None,
    labels: Location | None = None,
    gallery: Location | Embeddings | None = None,
    baseline: Location | Embeddings | None = None,
    baseline_gallery: Location | Embeddings | None = None,
    **settings: Any,
) -> Figures:
    """Figures of `protocol` (knn, linear, progression, alignment, ...) as plain numbers.

    target: what is measured: mostly embeddings, the test frames (a folder, or as loaded, as
    gallery and baseline may be too); an encoder for finetune and propagation, a run for pretext,
    a folder of OTB sequences for tracking.
    data: the frames, for protocols of encoders and runs.
    gallery: labelled frames to compare with or to train on, of other videos; without it the test
    videos serve each other (kNN leaves a frame's own event out, linear splits by event).
    labels: see `evaluate.labels`. baseline: the same of another encoder, with `baseline_gallery`
    where `gallery` is given. settings: the protocol's own (`marey eval PROTOCOL --help`).

    Returns {"protocol", "settings" (all, defaults too), "figures", "baseline"?, "embeddings",
    "gallery"?}: with these the figures can be made again. Raises SettingError for an unknown
    protocol or setting, UsageError for a missing option, InputError for data that the protocol
    cannot use.
    """
    found = find_protocol(plugins.allow_name(protocol))
    checked = found.check(settings)
    given = (data, gallery, labels, baseline, baseline_gallery)
    inputs = Inputs(_name(target), *(None if one is None else _name(one) for one in given))
    found.check_needed(inputs)
    if found.target != "embeddings":
        result = found.function()(inputs, checked)
    else:
        if baseline is not None and gallery is not None and baseline_gallery is None:
            raise SettingError("a baseline with a gallery needs --baseline-gallery FOLDER too")
        result = _on_embeddings(found, target, gallery, inputs.labels, checked)
        if baseline is not None:
            other = _on_embeddings(found, baseline, baseline_gallery, inputs.labels, checked)
            result["baseline"] = other["figures"]
    return {"protocol": protocol, "settings": checked.model_dump(mode="json")} | result


def _on_embeddings(
    protocol: Protocol,
    target: Location | Embeddings,
    gallery: Location | Embeddings | None,
    labels: Location | None,
    settings: Settings,
) -> Figures:
    """The figures of one side, and which embeddings they are of."""
    test = target if isinstance(target, Embeddings) else load_embeddings(target)
    train = gallery
    if train is not None and not isinstance(train, Embeddings):
        train = load_embeddings(train)
    if train is not None:
        check_one_encoder(test, train)
    if train is not None and not protocol.same_videos:
        check_disjoint(test, train)
    result: Figures = {"figures": protocol.function()(test, train, labels, settings)}
    result["embeddings"] = describe(test, _name(target))
    if train is not None and gallery is not None:
        result["gallery"] = describe(train, _name(gallery))
    return result


def _name(given: Location | Embeddings) -> str:
    return "embeddings in memory" if isinstance(given, Embeddings) else str(given)


def describe(embeddings: Embeddings, location: Location) -> Figures:
    """Which embeddings these are: of which encoder, data and preparation of pictures."""
    known = ("encoder_sha256", "data", "data_digest", "preprocessing")
    return {
        "location": str(location),
        "frames": len(embeddings),
        "videos": len(np.unique(embeddings.video_id)),
        "events": len(np.unique(embeddings.event)),
        "dim": int(embeddings.features.shape[1]),
        **{name: embeddings.meta.get(name) for name in known},
    }


def evaluate(
    protocol: str,
    embeddings: Embeddings,
    labels: Labels | None = None,
    *,
    gallery: Embeddings | None = None,
    **settings: Any,
) -> Figures:
    """The same for embeddings in memory; `labels` replace those that the embeddings carry."""
    if labels is not None:
        embeddings = labelled_as(embeddings, labels)
    found = find_protocol(protocol)
    if found.target != "embeddings":
        raise SettingError(f"{protocol} measures no embeddings but {found.target}: use run_eval")
    if gallery is not None:
        check_one_encoder(embeddings, gallery)
    return found.function()(embeddings, gallery, None, found.check(settings))


COMPARED = {
    "encoder_sha256": "were made by different encoders",
    "preprocessing": "were prepared for the encoder in different ways",
}
"""What the metadata say of test and gallery that must be the same, and what it means if not."""


def check_one_encoder(test: Embeddings, gallery: Embeddings) -> None:
    """Raises InputError when vectors of test and gallery cannot be compared: they have different
    widths, or their metadata (where there are any) name different encoders."""
    widths = test.features.shape[1], gallery.features.shape[1]
    meaning = [f"have {widths[0]} and {widths[1]} dimensions"] if widths[0] != widths[1] else []
    for key, text in COMPARED.items():
        one, other = test.meta.get(key), gallery.meta.get(key)
        if one is not None and other is not None and one != other:
            meaning.append(text)
    if meaning:
        raise InputError(
            f"test and gallery {' and '.join(meaning)}: distances between them mean nothing; run "
            "`marey embed` on both with the same encoder"
        )


def check_disjoint(test: Embeddings, train: Embeddings) -> None:
    """Raises InputError when an event is on both sides."""
    # embeddings from elsewhere may not say what they are of
    images = all(
        part.meta.get("kind", "image") == "image" and len(np.unique(part.video_id)) == len(part)
        for part in (test, train)
    )
    if images and test.meta.get("data") != train.meta.get("data"):
        return  # images of two tables: names are row numbers and may repeat
    events = ({composed(name) for name in part.event.tolist()} for part in (test, train))
    shared = sorted(set.intersection(*events))
    if shared:
        raise InputError(
            f"gallery and test share {len(shared)} events (e.g. {shared[0]}): "
            "frames of one video in both make the figure meaningless"
        )


def render(result: Mapping[str, Any]) -> str:
    """A text table of what `run_eval` returns: figure, baseline where there is one, chance."""
    figures, baseline = result["figures"], result.get("baseline", {})
    about = result.get("embeddings", {})
    counts = {"samples": "samples", "frames": "frames", "videos": "videos", "dim": "dimensions"}
    size = ", ".join(f"{about[key]} {name}" for key, name in counts.items() if key in about)
    lines = [f"{result['protocol']} on {about.get('location', 'embeddings')}: {size}"]
    width = max(len(name) for name in figures)
    header = f"{'':{width}}  {'value':>10}"
    lines.append(header + (f"  {'baseline':>10}" if baseline else ""))
    for name, value in figures.items():
        line = f"{name:{width}}  {_cell(value):>10}"
        if baseline:
            line += f"  {_cell(baseline.get(name, '')):>10}"
        lines.append(line)
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value) or "none"
    return str(value)
