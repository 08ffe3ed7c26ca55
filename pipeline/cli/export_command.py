"""What `marey export` does and says."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from marey.configs.errors import UsageError
from marey.pipeline.cli.outcome import DONE, Result
from marey.pipeline.runtime.telling import now

SUFFIX = {"atlas": ".parquet", "torch": ".pt2", "onnx": ".onnx"}
"""How the files end that `marey export` writes; the other formats are folders."""
FOLDERS = {
    "projector": ("vectors.bytes", "metadata.tsv", "sprite.png", "projector_config.pbtxt"),
    "timm": ("model.safetensors", "config.json"),
}
"""What it writes into those."""


def export(options: argparse.Namespace) -> Result:
    """Write embeddings or an encoder for other programs, and say how those open them."""
    from marey.pipeline.cli.locations import check_encoder, check_suffix, check_there

    if options.to in SUFFIX:
        check_suffix(options.out, SUFFIX[options.to], f"an export to {options.to}")
    for name in ("neighbors", "thumbnail"):
        if getattr(options, name) < 0:
            raise UsageError(f"--{name} {getattr(options, name)}: a positive number, or 0 for none")
    of_embeddings = options.to in ("atlas", "projector")
    if of_embeddings:
        check_there(options.target, "TARGET", "write it with `marey embed RUN --data INDEX -o OUT`")
    else:
        check_encoder(options.target)
    now("reading what is to be exported")
    from marey.pipeline.export.export_note import ExportNote

    note = ExportNote(options.out, FOLDERS.get(options.to, ()))
    made_of = {"to": options.to} | (_frames(options) if of_embeddings else _encoder(options.target))
    said = None if options.overwrite else note.before(made_of)
    if said is not None:
        print(f"nothing to do: this export is there already -> {options.out}", file=sys.stderr)
        return DONE, said
    note.remove()
    said = _export_frames(options) if of_embeddings else _export_encoder(options)
    note.write(made_of, said)
    return DONE, said


def _encoder(location: str) -> dict[str, Any]:
    """What an export of an encoder depends on."""
    from marey.pipeline.export.encoders import opened

    return {"encoder_sha256": opened(location)[1]["sha256"]}


def _frames(options: argparse.Namespace) -> dict[str, Any]:
    """What an export of embeddings depends on."""
    from marey.pipeline.embedding.folder_meta import read_meta
    from marey.pipeline.runtime.storage import Folder, absolute, split

    folder, name = split(absolute(options.target))
    meta = read_meta(Folder(options.target))
    known = ("encoder_sha256", "data_digest", "fps", "copies", "dtype", "frames")
    about = {key: meta.get(key) for key in known} if meta else {"bytes": Folder(folder).size(name)}
    data = None if options.data is None else absolute(options.data)
    return {
        "embeddings": absolute(options.target), **about, "data": data,
        "neighbors": options.neighbors, "thumbnail": options.thumbnail,
    }  # fmt: skip


def _export_frames(options: argparse.Namespace) -> dict[str, Any]:
    from marey.pipeline.runtime.progress import Progress

    now("reading the embeddings and placing them on a map")
    if options.to == "projector":
        from marey.pipeline.export.projector import USAGE, export_projector

        count = export_projector(
            options.target, options.out, data=options.data, thumbnail=options.thumbnail
        )
    else:
        from marey.pipeline.export.atlas import USAGE, export_atlas

        bar = Progress("export", "frames")
        count = export_atlas(
            options.target, options.out, data=options.data, neighbours=options.neighbors,
            thumbnail=options.thumbnail, progress=bar.update,
        )  # fmt: skip
        bar.close()
    usage = USAGE.format(out=options.out)
    print(f"{count} frames -> {options.out}; open it with: {usage}", file=sys.stderr)
    return {"frames": count, "open_with": usage}


def _export_encoder(options: argparse.Namespace) -> dict[str, Any]:
    from marey.pipeline.export import encoders, plain_weights, transformers_weights

    now("exporting, and running what was exported")
    write = {
        "timm": plain_weights.export_plain,
        "transformers": transformers_weights.export_transformers,
        "torch": encoders.export_torch,
        "onnx": encoders.export_onnx,
    }[options.to]
    made = write(options.target, options.out)
    if made.remark:
        print(f"note: {made.remark}", file=sys.stderr)
    print(
        f"-> {options.out}, within {made.difference:.1g} of marey's own vectors; use it with:\n"
        f"{made.usage}",
        file=sys.stderr,
    )
    return {"difference": made.difference, "use_with": made.usage, "note": made.remark}
