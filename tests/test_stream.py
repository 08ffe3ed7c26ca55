"""The stages in one process: right pixels, right order, refusals that cost only themselves."""

import io
import math
import pickle

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from marey.configs.errors import SettingError
from marey.configs.sampling import FramesSampling, TimePairsSampling, ViewPairsSampling
from marey.configs.schema import DataConfig
from marey.pipeline.data.build_index import make_index, write_index
from marey.pipeline.data.index import Index
from marey.pipeline.data.source import open_source
from marey.pipeline.stream.graph import Stage, run, unit_blocks
from marey.pipeline.stream.plan import Position, Unit, make_plan
from marey.pipeline.stream.resources import Needs, budget, budget_on_gpus, shares
from marey.pipeline.stream.samples import batches, shuffled, stream_here
from tests.corpora import encode_corpus
from tests.videos import frame_number

DATA = DataConfig(decode_size=64)
FPS = 12


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return encode_corpus(tmp_path_factory.mktemp("corpus"), fps=FPS)


def samples(location, sampling, *, epochs=1, done=None, data=DATA):
    source = open_source(str(location))
    plan = make_plan(source, sampling, seed=0, epochs=epochs)
    return plan, list(stream_here(plan, source, data, done))


@pytest.mark.parametrize(
    "sampling",
    [FramesSampling(per_video=6), TimePairsSampling(pairs=4), ViewPairsSampling(pairs=4)],
    ids=lambda s: s.kind,
)
def test_every_frame_is_the_one_shown_at_its_time(corpus, sampling):
    _, got = samples(corpus, sampling)
    for sample in got:
        shown = [frame_number(frame) for frame in sample["frames"]]
        assert shown == np.floor(sample["time_s"] * FPS).astype(int).tolist()


def test_samples_arrive_in_the_plans_order_whatever_the_number_of_threads(corpus):
    runs = []
    for actors in (1, 3):
        data = DATA.model_copy(update={"decode_actors": actors})
        plan, got = samples(corpus, TimePairsSampling(pairs=4, per_video=2), epochs=2, data=data)
        assert [int(s["sample"]) for s in got] == list(range(plan.total))
        runs.append(got)
    for one, other in zip(*runs, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_what_is_done_is_not_decoded_again(corpus):
    plan, got = samples(corpus, FramesSampling(per_video=2), done=Position(5, [7, 9]))
    assert [int(s["sample"]) for s in got] == [5, 6, 8, *range(10, plan.total)]


def test_long_events_are_decoded_in_bounded_pieces(corpus, monkeypatch):
    whole = samples(corpus, FramesSampling(per_video=6))[1]
    monkeypatch.setattr("marey.pipeline.stream.decode.CHUNK_BYTES", 64 * 64 * 3 * 2)
    pieces = samples(corpus, FramesSampling(per_video=6))[1]
    assert len(whole) == len(pieces)
    for one, other in zip(whole, pieces, strict=True):
        assert np.array_equal(one["frames"], other["frames"])


def test_a_bad_video_is_reported_and_the_rest_goes_on(tmp_path):
    location = encode_corpus(tmp_path, events=3, views=1)
    (tmp_path / "e0_v0.mp4").unlink()
    (tmp_path / "e1_v0.mp4").write_bytes(b"no longer a video")
    plan, got = samples(location, FramesSampling(per_video=3))
    reasons = {n: str(s["refused"]) for s in got for n in [int(s["instance"])]}
    assert len(got) == plan.total == 9
    assert [bool(reasons[n]) for n in range(3)] == [True, True, False]
    assert "e0_v0.mp4" in reasons[0]
    assert "e1_v0.mp4" in reasons[1]
    assert all(s["frames"].any() for s in got if not s["refused"])


def test_images_of_tables_and_folders_are_samples_too(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (40, 60, 3), dtype=np.uint8) for _ in range(5)]
    encoded = [cv2.imencode(".png", p[..., ::-1])[1].tobytes() for p in pictures]
    encoded[2] = b"broken"
    columns = {"image": encoded, "label": [0, 1, 0, 1, 0], "name": list("abcde")}
    pq.write_table(pa.table(columns), tmp_path / "images.parquet")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in zip("abcde", encoded, strict=True):
        (folder / f"{name}.png").write_bytes(content)
    data = DataConfig(decode_size=40)
    for location in (tmp_path / "images.parquet", folder):
        _, got = samples(location, FramesSampling(), data=data)
        assert sorted(int(s["instance"]) for s in got) == list(range(5))
        for sample in got:
            number = int(sample["instance"])
            if number == 2:
                assert "not an image" in str(sample["refused"])
            else:
                assert np.array_equal(sample["frames"][0], pictures[number][:, 10:50])


def test_shuffling_is_a_permutation_that_its_seed_decides():
    stream = [{"sample": np.int64(n), "frames": np.zeros(1, np.uint8)} for n in range(200)]

    def order(size, seed):
        return [int(s["sample"]) for s in shuffled(stream, size, np.random.default_rng(seed))]

    assert order(1, 0) == list(range(200))
    assert sorted(order(32, 0)) == list(range(200))
    assert order(32, 0) == order(32, 0)
    assert order(32, 0) != order(32, 1)
    # a sample cannot come out before it went in
    assert all(place >= number - 32 for place, number in enumerate(order(32, 0)))


def test_batches_keep_the_short_last_one():
    stream = [{"sample": np.int64(n)} for n in range(7)]
    assert [len(batch) for batch in batches(stream, 3)] == [3, 3, 1]


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 8, 16, 96, 1000])
@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("actors", [None, 1, 7])
def test_the_budget_leaves_room_for_a_task(cpus, workers, actors):
    share = budget(float(cpus), workers, actors)
    used = share.trainer_cpus * workers + share.actor_cpus * share.actors
    assert share.actors >= 1
    assert min(share.trainer_cpus, share.actor_cpus) > 0
    assert used <= 0.9 * cpus + 1e-6


@pytest.mark.parametrize(("workers", "gpus"), [(1, 1), (1, 2), (4, 4), (8, 16)])
@pytest.mark.parametrize("actors", [None, 1, 5])
@pytest.mark.parametrize("trainers", [False, True])
def test_actors_that_decode_on_gpus_find_room_beside_the_trainers(workers, gpus, actors, trainers):
    share = budget_on_gpus(64.0, workers, gpus, actors, trainers=trainers, backend="x")
    assert share.actors == (actors or 2 * gpus)
    assert share.actor_gpus > 0
    # one on each GPU with its trainer, as many actors as there are GPUs to spread them over
    room = 1 - share.trainer_gpus * trainers
    assert gpus * math.floor(room / share.actor_gpus + 1e-6) >= share.actors
    if trainers:
        assert 0.5 < share.trainer_gpus < 1  # never two trainers on one GPU
    assert share.actor_cpus == budget(64.0, workers, share.actors).actor_cpus


def test_decoding_on_gpus_needs_one():
    with pytest.raises(SettingError, match="needs a GPU, and the cluster has none"):
        budget_on_gpus(8.0, 1, 0, None, trainers=False, backend="x")


def test_very_many_units_share_blocks_without_loss(monkeypatch):
    monkeypatch.setattr("marey.pipeline.stream.graph.UNIT_BLOCKS", 7)
    units = [Unit(0, n, n + 1) for n in range(50)]
    blocks = unit_blocks(units)
    assert len(blocks) == 7
    sizes = [len(block) for block in blocks]
    assert max(sizes) - min(sizes) <= 1
    assert [pickle.loads(u) for b in blocks for u in b.column("unit").to_pylist()] == units
    assert [len(block) for block in unit_blocks(units[:3])] == [1, 1, 1]
    assert unit_blocks([]) == []


class Doubled:
    """A step that gives two rows a unit."""

    suspicious = False

    def __call__(self, unit):
        yield {"unit": np.array([unit])}
        yield {"unit": np.array([-unit])}


def squared():
    return lambda rows: [{"unit": rows["unit"] ** 2}]


def test_stages_follow_each_other_in_the_order_of_the_units():
    rows = run(range(1, 20), [Stage(Doubled), Stage(squared)], "local")
    assert [int(r["unit"][0]) for r in rows] == [n * n for n in range(1, 20) for _ in (0, 1)]


def test_nothing_is_started_where_there_is_no_unit():
    never = Stage(lambda: pytest.fail("made"))
    assert list(run([], [never], "local")) == list(run([], [never], "ray")) == []


@pytest.mark.parametrize(("cpus", "gpus"), [(2, 1), (16, 1), (16, 2), (16, 3), (64, 8), (4, 8)])
def test_actors_that_need_gpus_share_all_of_them(cpus, gpus):
    (share,) = shares(cpus, gpus, [Needs(gpus_for="device=cuda")])
    assert 0 < share.gpus <= 1
    side_by_side = math.floor(1 / share.gpus + 1e-9)  # on one GPU: none has parts of two
    assert share.actors / gpus <= side_by_side < share.actors / gpus + 1
    (without,) = shares(cpus, gpus, [Needs()])
    assert not without.gpus


@pytest.mark.parametrize(("cpus", "gpus"), [(2, 0), (16, 0), (16, 2), (64, 8)])
def test_one_heavy_actor_has_each_gpu_and_the_others_what_cpus_are_left(cpus, gpus):
    read, embed = shares(cpus, gpus, [Needs(), Needs(one_a_gpu=True)])
    assert (embed.actors, embed.gpus, embed.fixed) == (max(1, gpus), float(gpus > 0), True)
    assert read.gpus == 0
    assert not read.fixed
    assert read.actors * read.cpus + embed.actors * embed.cpus <= 0.9 * cpus + 1e-6


def test_actors_that_need_gpus_name_what_asks_for_them():
    with pytest.raises(SettingError, match="device=cuda, but the cluster has no GPU"):
        shares(16.0, 0, [Needs(gpus_for="device=cuda")])


def test_an_index_survives_its_file(tmp_path):
    folder = tmp_path / "videos"
    location = encode_corpus(folder, events=2)
    table = make_index([str(folder)], views=None)
    write_index(table, str(tmp_path / "plain.parquet"))
    assert len(Index.load(str(location))) == 2
    assert len(Index.load(str(tmp_path / "plain.parquet"))) == 4
    buffer = io.BytesIO((tmp_path / "plain.parquet").read_bytes())
    assert pq.read_table(buffer).column_names == table.column_names
