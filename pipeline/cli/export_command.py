"""What `marey export` does and says."""

from __future__ import annotations

import argparse
import sys

from marey.configs.errors import UsageError
from marey.pipeline.cli.outcome import DONE, Result

SUFFIX = {"atlas": ".parquet", "torch": ".pt2", "onnx": ".onnx"}
"""How the files end that `marey export` writes; the other formats are folders."""


def export(options: argparse.Namespace) -> Result:
    """Write embeddings or an encoder for other programs, and say how those open them."""
    from marey.pipeline.cli.locations import check_encoder, check_suffix, check_there
    from marey.pipeline.runtime.progress import Progress

    if options.to in SUFFIX:
        check_suffix(options.out, SUFFIX[options.to], f"an export to {options.to}")
    for name in ("neighbors", "thumbnail"):
        if getattr(options, name) < 0:
            raise UsageError(f"--{name} {getattr(options, name)}: a positive number, or 0 for none")
    if options.to not in ("atlas", "projector"):
        check_encoder(options.target)
        return _export_encoder(options)
    check_there(options.target, "TARGET", "write it with `marey embed RUN --data INDEX -o OUT`")
    print("reading the embeddings and placing them on a map", file=sys.stderr)
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
    return DONE, {"frames": count, "open_with": usage}


def _export_encoder(options: argparse.Namespace) -> Result:
    from marey.pipeline.export import encoders, plain_weights, transformers_weights

    print("exporting, and running what was exported", file=sys.stderr)
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
    return DONE, {"difference": made.difference, "use_with": made.usage, "note": made.remark}
