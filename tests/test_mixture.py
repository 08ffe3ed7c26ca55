"""Several corpora as one: shares, once per epoch, order and resumption."""

import json
from collections import Counter

import numpy as np
import pytest

import marey
from marey.configs.errors import InputError, UsageError
from marey.configs.sampling import ClipsSampling, FramesSampling
from marey.configs.schema import DataConfig
from marey.pipeline.cli.main import main
from marey.pipeline.data.mixture import Mixture, weighted_visits
from marey.pipeline.data.mixture_location import members_of, mixture_of
from marey.pipeline.data.source import open_source
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.stream.plan import Position, make_plan
from marey.pipeline.stream.samples import stream_here
from marey.pipeline.training.record import read_metrics
from tests.corpora import encode_corpus


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Two corpora of 6 and 2 videos."""
    folder = tmp_path_factory.mktemp("mixture")
    return [
        str(encode_corpus(folder / name, events=n, views=1)) for name, n in (("a", 6), ("b", 2))
    ]


def plan_of(location, sampling=None, epochs=1):
    source = open_source(location)
    return make_plan(source, sampling or FramesSampling(), seed=3, epochs=epochs), source


def visited(plan, source, epoch=0):
    return Counter(source.event(int(n)).event_id for n in plan.events[plan.order(epoch)])


def test_without_weights_everything_comes_once_per_epoch(corpora):
    location = mixture_of(corpora)
    plan, source = plan_of(location, epochs=2)
    assert isinstance(source, Mixture)
    assert len(source) == plan.samples_per_epoch == 8
    for epoch in range(2):
        assert set(visited(plan, source, epoch).values()) == {1}
    assert list(plan.order(0)) != list(plan.order(1))
    samples = list(stream_here(plan, source, DataConfig(decode_size=32)))
    assert [int(sample["sample"]) for sample in samples] == list(range(16))
    assert not any(str(sample["refused"]) for sample in samples)


@pytest.mark.parametrize("weights", [(3, 1), (1, 1), (1, 3), (1, 10), (2, 0.3)])
def test_an_epoch_has_the_shares_that_weights_say_and_leaves_nothing_out(weights):
    counts = np.array([2] * 600 + [5] * 80)
    member = np.array([0] * 600 + [1] * 80)
    event, visit = weighted_visits(member, counts, weights, ["a", "b"])
    taken = [int(counts[event[member[event] == m]].sum()) for m in (0, 1)]
    assert taken[0] / sum(taken) == pytest.approx(weights[0] / sum(weights), abs=0.004)
    times = np.bincount(event)
    for m in (0, 1):
        assert np.ptp(times[member == m]) <= 1
    assert times.min() == 1
    assert len({*zip(event.tolist(), visit.tolist(), strict=True)}) == len(event)
    # the corpora lie evenly among each other
    part = [member[half].mean() for half in np.array_split(event, 4)]
    assert np.ptp(part) < 0.1


def test_visits_draw_samples_of_their_own_and_workers_do_not_matter(corpora):
    location = mixture_of([f"{corpora[0]}:1", f"{corpora[1]}:2"])
    assert [weight for _, weight in members_of(location)] == [1.0, 2.0]
    plan, source = plan_of(location, ClipsSampling(num_frames=2))
    assert plan.samples_per_epoch == 6 + 12
    by_event = {}
    for unit in plan.units():
        for (sample,) in plan.samples(unit, source):
            by_event.setdefault(sample.event, []).append(float(sample.request.times_s[0]))
    assert sorted(map(len, by_event.values())) == [1] * 6 + [6] * 2
    assert all(len(set(times)) > 1 for times in by_event.values() if len(times) > 1)
    again, other = plan_of(location, ClipsSampling(num_frames=2))
    assert list(again.order(0)) == list(plan.order(0))
    done = Position(4, [6, 9])
    left = [int(s["sample"]) for s in stream_here(again, other, DataConfig(decode_size=32), done)]
    assert left == [5 - 1, 5, 7, 8, *range(10, 18)]


def test_programs_give_several_corpora_as_a_list(corpora):
    small = {"trainer.batch_size": 4, "data.decode_size": 32, "encoder.image_size": 32}
    found = list(marey.batches([f"{corpora[0]}:1", corpora[1]], "simclr", small))
    seen = np.concatenate([batch["instance"].numpy() for batch in found])
    assert sorted(seen.tolist()) == [0, 1, 2, 3, 4, 5, 6, 6, 6, 7, 7, 7]


def test_what_does_not_go_together_is_refused(corpora, tmp_path):
    with pytest.raises(UsageError, match="a weight is a positive number"):
        mixture_of([f"{corpora[0]}:0", corpora[1]])
    assert mixture_of([corpora[0]]) == corpora[0]
    assert mixture_of(["s3://b/i.parquet?endpoint_override=h:9000/x"]).startswith("s3://")
    with pytest.raises(InputError, match="gives no sample; leave it out"):
        weighted_visits(np.zeros(3, int), np.ones(3, int), [1, 1], ["a", "b"])
    one, two = (open_source(mixture_of([f"{corpora[0]}:{w}", corpora[1]])) for w in (1, 2))
    assert one.digest != two.digest


def test_a_run_on_a_mixture_resumes_and_counts_each_corpus(corpora, tmp_path, capsys):
    run = str(tmp_path / "run")
    data = ["--data", f"{corpora[0]}:3", "--data", f"{corpora[1]}:3"]
    small = ["trainer.batch_size=4", "encoder.image_size=32", "data.decode_size=32",
             "trainer.log_every=1", "trainer.checkpoint_every=1"]  # fmt: skip
    words = ["train", "simclr", *data, "-o", run, "--engine", "local", *small]
    assert main([*words, "trainer.epochs=1"]) == 0
    said = capsys.readouterr().err
    assert "a/index: 6 samples per epoch (50.0%), 1 passes" in said
    assert "b/index: 6 samples per epoch (50.0%), 3 passes" in said
    assert main([*words, "trainer.epochs=2", "--resume"]) == 0
    lines = [line for line in read_metrics(Folder(run)) if "share/a/index" in line]
    assert len(lines) == 6
    for line in lines:
        assert line["share/a/index"] + line["share/b/index"] == pytest.approx(1)
    assert np.mean([line["share/a/index"] for line in lines]) == pytest.approx(0.5)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["step"] == 6
    other = [*words, "trainer.epochs=3", "--resume"]
    other[3] = f"{corpora[0]}:2"
    assert main(other) != 0


def test_what_is_refused_is_counted_for_each_corpus(corpora, tmp_path):
    index = encode_corpus(tmp_path / "c", events=3, views=1)
    next((tmp_path / "c").glob("*.mp4")).write_bytes(b"no video any more")
    run = tmp_path / "run"
    words = ["train", "simclr", "--data", corpora[0], "--data", str(index), "-o", str(run),
             "--engine", "local", "trainer.batch_size=4", "trainer.epochs=1", "trainer.log_every=1",
             "encoder.image_size=32", "data.decode_size=32"]  # fmt: skip
    assert main(words) == 3
    last = [line for line in read_metrics(Folder(str(run))) if "refused" in line][-1]
    assert (last["refused"], last["refused/a/index"], last["refused/c/index"]) == (1, 0, 1)
    (reason,) = json.loads((run / "summary.json").read_text())["refused"]
    assert reason.startswith("c/index: ")
