"""Shards as a source: the samples that the plan gives, once, without decoding video again."""

import numpy as np
import pytest

from marey.configs.errors import InputError, UsageError
from marey.configs.mining import mining_settings
from marey.configs.sampling import TracksSampling, TuplesSampling, ViewPairsSampling
from marey.configs.schema import DataConfig
from marey.pipeline.data.source import open_source
from marey.pipeline.data.stored_samples import StoredSamples
from marey.pipeline.mining.mine import mine_corpus
from marey.pipeline.report import write_report
from marey.pipeline.stream.plan import make_plan
from marey.pipeline.stream.samples import stream_here
from tests.corpora import encode_corpus

DATA = DataConfig(decode_size=64)
SAMPLING = ViewPairsSampling(pairs=4, per_event=3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return str(encode_corpus(tmp_path_factory.mktemp("corpus")))


@pytest.fixture(scope="module")
def shards(corpus, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("shards") / "pairs")
    words = ["sampling.pairs=4", "sampling.per_event=3", "data.decode_size=64", "image.format=png"]
    mine_corpus(corpus, out, mining_settings("pairs", words), engine="local")
    return out


def stream(location, sampling, epochs=1):
    source = open_source(location)
    plan = make_plan(source, sampling, seed=0, epochs=epochs)
    return list(stream_here(plan, source, DATA))


def test_stored_samples_are_those_of_the_plan(corpus, shards):
    fresh = stream(corpus, SAMPLING)
    stored = stream(shards, SAMPLING)
    assert len(fresh) == len(stored) == 12

    def key(sample):
        return sample["frames"].tobytes()

    for one, other in zip(sorted(fresh, key=key), sorted(stored, key=key), strict=True):
        assert np.array_equal(one["frames"], other["frames"])
        for name in ("time_s", "view"):
            assert np.array_equal(one[name], other[name])
            assert one[name].dtype == other[name].dtype
    # samples of one event still count as one instance
    assert len({int(s["instance"]) for s in stored}) == 4


def test_every_row_comes_once_an_epoch_in_another_order(shards):
    samples = stream(shards, SAMPLING, epochs=2)
    assert [int(s["sample"]) for s in samples] == list(range(24))
    first, second = ([s["frames"].tobytes() for s in half] for half in (samples[:12], samples[12:]))
    assert sorted(first) == sorted(second)
    assert first != second


def test_a_method_refuses_samples_of_another_kind(corpus, shards):
    source = open_source(shards)
    assert isinstance(source, StoredSamples)
    with pytest.raises(InputError, match=r"of kind 'view_pairs'; this method trains on 'tuples'"):
        make_plan(source, TuplesSampling(), seed=0, epochs=1)
    with pytest.raises(InputError, match="marey mine"):
        make_plan(open_source(corpus), TracksSampling(), seed=0, epochs=1)


def test_the_page_of_shards_shows_samples_and_reasons(shards, tmp_path):
    write_report(shards, str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert "12 samples of kind view_pairs" in page
    assert "accepted" in page
    assert page.count("<p>Sample ") == 12
    assert page.count("<img ") >= 12 * 2
    assert "view 1" in page


def test_kinds_and_settings_are_checked():
    with pytest.raises(UsageError, match="did you mean tracks"):
        mining_settings("track", [])
    assert mining_settings("tracks", ["proposals.every_s=2"]).proposals.every_s == 2
    assert mining_settings("tuples", []).kind == "tuples"
