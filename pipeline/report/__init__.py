"""What people look at: one self-contained page on a run, an index or a folder of embeddings.

`write_report` makes the page of one target; `run_sections`, `index_sections`, `shard_sections`,
`embedding_sections` and `task_section` give the parts, so that several targets can share a page
(`write_page`).
"""

from __future__ import annotations

from collections.abc import Sequence

from marey.configs.errors import InputError
from marey.pipeline.data.index_manifest import is_index_folder
from marey.pipeline.data.shards import MANIFEST
from marey.pipeline.embedding.folder_meta import is_whole
from marey.pipeline.report.of_embeddings import embedding_sections
from marey.pipeline.report.of_index import index_sections
from marey.pipeline.report.of_run import run_sections
from marey.pipeline.report.of_shards import shard_sections
from marey.pipeline.report.of_task import task_section
from marey.pipeline.report.page import Section, render_page
from marey.pipeline.report.pictures import Fetch
from marey.pipeline.runtime.storage import Folder

__all__ = [
    "Fetch",
    "Section",
    "embedding_sections",
    "index_sections",
    "run_sections",
    "shard_sections",
    "task_section",
    "write_page",
    "write_report",
]


def write_report(
    target: str,
    out: str,
    *,
    baseline: str | None = None,
    labels: str | None = None,
    fetch: Fetch | None = None,
) -> None:
    """Write the page of a run, an index (.parquet), shards or a folder of embeddings to `out`.

    For embeddings: `baseline` are those of another encoder on the same frames, shown beside them;
    `labels` as for `marey eval`; `fetch(video_id, time_s)` gives a frame where the indexed videos
    are not at their places. Raises InputError when the target is none of these.
    """
    target = str(target)
    folder = Folder(target)
    if not folder.exists():
        raise InputError(f"{target}: no such run, index or embeddings folder")
    if target.endswith(".parquet") or is_index_folder(target):
        page = index_sections(target)
    elif folder.exists("metrics.jsonl"):
        page = run_sections(target)
    elif folder.exists(MANIFEST):
        page = shard_sections(target)
    elif is_whole(folder) or folder.names("parts", ".parquet"):
        page = embedding_sections(target, baseline=baseline, labels=labels, fetch=fetch)
    else:
        raise InputError(
            f"{target} is neither a run (metrics.jsonl), an index (.parquet, or "
            "index.json), "
            "shards (manifest.json) nor a folder of embeddings (parts/*.parquet)"
        )
    write_page(str(out), *page)


def write_page(out: str, title: str, subtitle: str, sections: Sequence[Section]) -> None:
    """Write sections as one page, whole or not at all."""
    parent, _, name = out.replace("\\", "/").rpartition("/")
    home = parent or ("/" if out.startswith("/") else ".")
    Folder(home).write(name, render_page(title, subtitle, sections).encode())
