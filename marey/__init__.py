"""A distributed pipeline for video temporal self-supervision.

    import marey

    marey.index("videos/", "index.parquet")
    run = marey.train("tcn_single", "index.parquet", "runs/tcn")
    vectors = marey.embed(run.encoder, "videos/walk.mp4", times_s=[0.0, 0.5, 1.0])

The names in `__all__` are public: they keep their meaning from release to release. They are loaded
at first use, so that `import marey` needs neither torch nor ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "MareyError",
    "Method",
    "Run",
    "Samples",
    "__version__",
    "batches",
    "embed",
    "evaluate",
    "extend",
    "find",
    "import_plugins",
    "index",
    "load_embeddings",
    "load_encoder",
    "losses",
    "open",
    "ray_dataset",
    "read",
    "recipe",
    "sampling",
    "trackers",
    "train",
]
_ELSEWHERE = {
    "MareyError": "marey.configs.errors",
    "Method": "marey.models.method",
    "load_embeddings": "marey.pipeline.embedding.embeddings",
}
"""Public name -> its module, where that is not `marey.public`."""
_MODULES = {
    "extend": "marey.extend",
    "losses": "marey.models.objectives.losses",
    "sampling": "marey.pipeline.sampling",
    "trackers": "marey.trackers",
}
"""Public name -> the module that it stands for."""

if TYPE_CHECKING:
    from marey import extend, trackers
    from marey.configs.errors import MareyError
    from marey.models.method import Method
    from marey.models.objectives import losses
    from marey.pipeline import sampling
    from marey.pipeline.embedding.embeddings import load_embeddings
    from marey.public import (
        Run,
        Samples,
        batches,
        embed,
        evaluate,
        find,
        import_plugins,
        index,
        load_encoder,
        open,
        ray_dataset,
        read,
        recipe,
        train,
    )


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in __all__:
        raise AttributeError(f"module 'marey' has no attribute {name!r}")
    return getattr(importlib.import_module(_ELSEWHERE.get(name, "marey.public")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
