"""What `marey embed` does and says."""

from __future__ import annotations

import argparse
import math
import sys

from marey.configs.errors import UsageError
from marey.pipeline.cli.outcome import DONE, REFUSED, Result
from marey.pipeline.runtime.telling import now


def embed(options: argparse.Namespace) -> Result:
    """Write embeddings of a corpus."""
    from marey.pipeline.cli.locations import check_data, check_encoder

    if not 0 <= options.fps < math.inf:
        raise UsageError(f"--fps {options.fps} is no rate; 0 embeds every frame, 1 one per second")
    if options.copies < 0:
        raise UsageError(f"--copies {options.copies}: a number of copies, or 0 for none")
    now("reading the data and the encoder")
    check_encoder(options.encoder)
    check_data(options.data)
    from marey.pipeline.embedding.embed import embed
    from marey.pipeline.runtime.progress import Progress, print_first

    bar = Progress("embed", "frames")
    result = embed(
        options.encoder,
        options.data,
        options.out,
        rate=options.fps,
        dtype=options.dtype,
        copies=options.copies,
        engine=options.engine,
        overwrite=options.overwrite,
        progress=bar.update,
    )
    bar.close()
    print_first(
        [f"refused: {reason} ({count})" for reason, count in result.refused.items()],
        f"{options.out}/_meta.parquet (load_embeddings(...).meta)",
    )
    done = "" if result.made else "nothing to do: these embeddings are there already; "
    print(f"{done}{result.frames} frames -> {options.out}", file=sys.stderr)
    figures = {"frames": result.frames, "refused": result.refused}
    return (REFUSED if result.made and result.refused else DONE), figures
