"""Videos that hang or kill whoever decodes them, for tests, and a run of all stages over such ones.

    python -m tests.poisoned INDEX OUT     # prints what each stage refused, as JSON

A process is poisoned by `sitecustomize` (see `tests.test_poison`), as are all that it starts: no
file is known that does this to the decoders of today.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

from marey.pipeline.video import isolate, reader

LIMIT_S = 8.0


def poison() -> None:
    """From now on `dies.mp4` kills this process when it is opened, `hangs.mp4` never opens."""
    opened = reader.open_decoder

    def open_decoder(uri: str, *rest: Any) -> Any:
        if uri.endswith("dies.mp4"):
            os.kill(os.getpid(), signal.SIGKILL)
        if uri.endswith("hangs.mp4"):
            threading.Event().wait()
        return opened(uri, *rest)

    reader.open_decoder = open_decoder
    isolate.TIME_LIMIT_S, isolate.GRACE_S = LIMIT_S, 1.0


def main(index: str, out: str) -> dict[str, Any]:
    """Mine, embed and decode samples on Ray; what each refused."""
    from marey.configs.load import check
    from marey.configs.mining import TracksMining
    from marey.configs.sampling import FramesSampling
    from marey.configs.schema import DataConfig
    from marey.pipeline.data.source import open_source
    from marey.pipeline.embedding.embed import embed
    from marey.pipeline.mining.mine import mine_corpus
    from marey.pipeline.runtime.engine import ray_session
    from marey.pipeline.stream.plan import Position, make_plan
    from marey.pipeline.stream.resources import Budget
    from marey.pipeline.stream.samples import rows_of_shard, stream_ray

    with ray_session():
        mined = mine_corpus(index, f"{out}/shards", check(TracksMining, {"track_s": 0.5}))
        embedded = embed("pixels", index, f"{out}/embeddings", rate=5)
        plan = make_plan(open_source(index), FramesSampling(per_video=2), seed=0, epochs=1)
        data = stream_ray(plan, index, DataConfig(decode_size=32), Position(), Budget(0.5, 2, 0.4))
        samples = list(rows_of_shard(data.iterator(), 1))
    return {
        "mined": mined["reasons"],
        "embedded": embedded.frames,
        "not_embedded": embedded.refused,
        "samples": [str(sample["refused"]) for sample in samples],
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
