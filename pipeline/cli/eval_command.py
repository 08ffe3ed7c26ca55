"""What `marey eval` does and says."""

from __future__ import annotations

import argparse
import sys

from marey.configs import plugins
from marey.configs.errors import UsageError
from marey.pipeline.cli.outcome import DONE, Result
from marey.pipeline.runtime.telling import now


def evaluate(options: argparse.Namespace) -> Result:
    """Run one protocol and show its figures."""
    from marey.configs.load import override
    from marey.pipeline.cli.locations import check_there
    from marey.pipeline.evaluate.protocols import LOCATIONS, Inputs, find_protocol
    from marey.pipeline.runtime.progress import showing

    protocol = find_protocol(plugins.allow_name(options.protocol))
    settings = override({}, options.settings)
    if "baseline_gallery" in settings and not options.baseline_gallery:
        print("note: baseline_gallery=FOLDER is now --baseline-gallery FOLDER", file=sys.stderr)
        options.baseline_gallery = str(settings.pop("baseline_gallery"))
    for name in LOCATIONS:
        if name in settings:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{name} is an option: give {option} FOLDER, not {name}=FOLDER")
    given = {name: getattr(options, name) for name in LOCATIONS}
    inputs = Inputs(options.embeddings, **given)
    protocol.check_needed(inputs)
    protocol.check_unused(inputs)
    protocol.check(settings)
    made = {
        "embeddings": "write them with `marey embed RUN --data INDEX -o EMBEDDINGS`",
        "encoder": "give a run folder or timm:NAME",
        "run": "give the folder of a run (`marey train ... -o RUN`)",
        "sequences": "give the folder that holds the sequences",
    }
    if protocol.target != "encoder":
        check_there(options.embeddings, protocol.target.upper(), made[protocol.target])
    now("reading the embeddings")
    from marey.pipeline.evaluate.run import run_eval

    with showing():
        result = run_eval(protocol.name, options.embeddings, **given, **settings)
    print(protocol.render(result), file=sys.stderr if options.json else sys.stdout)
    return DONE, result
