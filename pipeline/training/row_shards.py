"""How Ray Train's shards are cut: every row to one trainer, none dropped to make them even."""

from __future__ import annotations

from typing import Any

from ray.train import DataConfig


class OrderedShards(DataConfig):
    """Ray Train's own rule truncates shards to equal length; ours keeps every row.

    The trainer levels what is left at the end itself (`lockstep.in_step`). Rows keep the
    plan's order.
    """

    def configure(
        self,
        datasets: dict[str, Any],
        world_size: int,
        worker_handles: Any,
        worker_node_ids: Any,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """One dictionary of iterators for each trainer."""
        shards: list[dict[str, Any]] = [{} for _ in range(world_size)]
        for name, dataset in datasets.items():
            copy = dataset.copy(dataset)
            copy.context.execution_options = self.default_ingest_options()
            copy.context.execution_options.preserve_order = True
            hints = worker_node_ids if world_size > 1 else None
            parts = copy.streaming_split(world_size, equal=False, locality_hints=hints)
            for shard, part in zip(shards, parts, strict=True):
                shard[name] = part
        return shards
