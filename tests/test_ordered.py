"""Shards are cut with what every Ray that pyproject.toml allows has, in the order of the plan."""

from types import SimpleNamespace

from ray.train import DataConfig

from marey.pipeline.training.row_shards import OrderedShards


class _Dataset:
    """What `configure` asks of a dataset."""

    def __init__(self) -> None:
        self.context = SimpleNamespace(execution_options=None)
        self.splits: list[dict] = []

    def copy(self, other: "_Dataset") -> "_Dataset":
        return other

    def streaming_split(self, count: int, **how) -> list[str]:
        self.splits.append(how)
        return [f"part {number}" for number in range(count)]


def test_shards_are_cut_by_what_ray_documents(monkeypatch):
    public = {"configure", "default_ingest_options", "set_train_total_resources"}
    for name in vars(DataConfig).keys() - public:
        if not name.startswith("__"):
            monkeypatch.delattr(DataConfig, name)
    dataset = _Dataset()
    shards = OrderedShards().configure({"train": dataset}, 2, None, ["a", "b"])
    assert shards == [{"train": "part 0"}, {"train": "part 1"}]
    assert dataset.splits == [{"equal": False, "locality_hints": ["a", "b"]}]
    assert dataset.context.execution_options.preserve_order
