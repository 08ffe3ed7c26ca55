"""A layout and a sampler of somebody else's, registered, go through every stage that takes them."""

import pickle

import cv2
import numpy as np
import pytest

from marey.configs.errors import InputError, SettingError, UsageError
from marey.configs.load import check
from marey.configs.mining import SamplesMining, mining_settings
from marey.configs.sampling import FramesSampling, Sampling, TimePairsSampling
from marey.configs.schema import DataConfig
from marey.models.method import methods
from marey.pipeline.data.events import Event
from marey.pipeline.data.images import still
from marey.pipeline.data.reading import Lack, no_frames
from marey.pipeline.data.shards import Shards
from marey.pipeline.data.source import LAYOUTS, open_source, register_source
from marey.pipeline.embedding.embed import embed
from marey.pipeline.mining.mine import mine_corpus
from marey.pipeline.sampling import build_sampler, register_sampler
from marey.pipeline.sampling.base import one_view
from marey.pipeline.sampling.frame_numbers import frame_time
from marey.pipeline.stream.plan import make_plan
from marey.pipeline.stream.samples import stream_here
from tests.corpora import encode_corpus

NUMBERS = 6


class Greys:
    """Pictures that a line of text describes: `greys` files, one grey value a line."""

    kind = "image"
    stills = True
    sample_kind = None
    digest = "greys"

    def __init__(self, location):
        self.location = location
        with open(location) as file:
            self.reader = GreyReader([int(line) for line in file])

    def __len__(self):
        return len(self.reader.values)

    def event(self, number):
        return Event(f"grey {number}", (still(f"grey {number}", str(number)),))

    def video(self, place):
        return self.event(place).videos[0]

    def durations_s(self):
        return np.zeros(len(self))

    def labels(self):
        return [value // 100 for value in self.reader.values]

    labelled = True

    def label_of(self, number):
        return self.labels()[number]

    def without_frames(self):
        return iter(())

    def check_present(self):
        pass


class GreyReader:
    def __init__(self, values):
        self.values = values

    def read(self, wanted, shape, *, suspected=False, backend="pyav"):
        out = no_frames(wanted, shape)
        for n, one in enumerate(wanted):
            value = self.values[int(one.event.videos[0].uri)]
            out.frames[n], out.shown_s[n] = value, one.times_s
            if value == 255:
                out.lacks[n] = Lack(0, "too bright")
        return out


@pytest.fixture
def greys(tmp_path):
    register_source("greys", lambda location: location.endswith(".greys"), Greys)
    path = tmp_path / "corpus.greys"
    path.write_text("\n".join(map(str, (10, 60, 110, 160, 210, 255))))
    return str(path)


def test_a_layout_from_outside_is_trained_on_mined_and_embedded(greys, tmp_path):
    source = open_source(greys)
    assert isinstance(source, Greys)
    plan = make_plan(source, FramesSampling(min_contrast=0), seed=0, epochs=1)
    samples = {int(s["instance"]): s for s in stream_here(plan, source, DataConfig(decode_size=16))}
    assert [str(samples[n]["refused"]) for n in range(NUMBERS)] == [
        *[""] * 5, "grey 5: too bright",
    ]  # fmt: skip
    assert [int(samples[n]["frames"].max()) for n in range(5)] == [10, 60, 110, 160, 210]
    assert [int(samples[n]["class_id"]) for n in range(NUMBERS)] == [0, 0, 1, 1, 2, 2]
    words = ["data.decode_size=16", "sampling.min_contrast=0"]
    mined = mine_corpus(
        greys, str(tmp_path / "s"), mining_settings("frames", words), engine="local"
    )
    assert mined["rows"] == 5
    made = embed("pixels", greys, str(tmp_path / "e"), engine="local")
    assert (made.frames, made.refused) == (5, {"grey 5: too bright": 1})


def test_the_layout_that_was_registered_last_is_asked_first(greys):
    assert LAYOUTS.names() == [
        "greys", "mixture", "shards", "folder of images", "table of images", "index of videos",
    ]  # fmt: skip
    register_source("mine", lambda location: location == greys, lambda location: "opened by mine")
    assert open_source(greys) == "opened by mine"
    with pytest.raises(TypeError, match="two layouts are called 'greys'"):
        register_source("greys", lambda location: True, Greys)


@pytest.mark.parametrize("layout", ["index", "folder", "shards"])
def test_a_reader_is_small_whatever_the_corpus_and_reads_what_its_source_reads(layout, tmp_path):
    location = str(tmp_path / "v")
    if layout == "folder":
        (tmp_path / "v").mkdir()
        for n in range(50):
            cv2.imwrite(f"{location}/{n}.png", np.full((20, 20, 3), 5 * n, np.uint8))
    else:
        location = str(encode_corpus(tmp_path / "v", events=2))
    if layout == "shards":
        settings = mining_settings("frames", ["data.decode_size=32"])
        mine_corpus(location, str(tmp_path / "s"), settings, engine="local")
        location = str(tmp_path / "s")
    source = open_source(location)
    pickled = pickle.dumps(source.reader)
    assert len(pickled) < 500
    wanted = [sources_wanted(source, n) for n in range(2)]
    here, there = (r.read(wanted, (32, 32)) for r in (source.reader, pickle.loads(pickled)))
    assert here.lacks == there.lacks == [None, None]
    assert here.frames.any()
    assert np.array_equal(here.frames, there.frames)


def sources_wanted(source, number):
    from marey.pipeline.data.reading import Wanted

    return Wanted(source.event(number), np.zeros(1, np.int64), np.array([0.1]))


def test_what_is_no_corpus_is_told(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        open_source(str(tmp_path / "nothing"))
    with pytest.raises(
        InputError, match="folder without images; for videos, first run `marey index"
    ):
        open_source(str(tmp_path))


class LastFrames(FramesSampling):
    """The last frames of every video."""

    kind: str = "last_frames"
    back: int = 1


@register_sampler(LastFrames)
class LastFramesSampler:
    num_frames = 1

    def __init__(self, settings):
        self.settings = settings

    def count(self, event):
        return len(event.videos), ""

    def plan(self, event, rng):
        return [
            one_view(event, view, frame_time(video, np.array([video.frames - self.settings.back])))
            for view, video in enumerate(event.videos)
        ]


def test_a_sampler_from_outside_stands_for_the_family_that_it_extends(tmp_path):
    config = methods()["simclr"].Config
    settings = check(config, {"sampling": {"kind": "last_frames", "back": 2}}, "method.").sampling
    assert isinstance(settings, LastFrames)
    assert isinstance(build_sampler(settings), LastFramesSampler)
    again = check(config, check(config, {"sampling": settings}).model_dump(mode="json"))
    assert again.sampling == settings  # as a resumed run reads it
    location = str(encode_corpus(tmp_path / "v", events=2, num_frames=24))
    mined = mine_corpus(
        location, str(tmp_path / "s"), mining_settings("last_frames", ["data.decode_size=32"]),
        engine="local",
    )  # fmt: skip
    assert mined["kind"] == "last_frames"
    assert [row["time_s"] for row in Shards(str(tmp_path / "s")).rows()] == [
        pytest.approx([23.5 / 12])
    ] * 4


def test_a_sampler_that_does_not_fit_its_method_is_refused_with_those_that_do():
    config = methods()["tcn"].Config
    with pytest.raises(SettingError, match="did you mean time_pairs"):
        check(config, {"sampling": {"kind": "time_pair"}}, "method.")
    with pytest.raises(SettingError, match="no kind of samples 'last_frames'; known are"):
        check(config, {"sampling": {"kind": "last_frames"}}, "method.")
    with pytest.raises(SettingError, match=r"no setting 'method\.sampling\.bakc'"):
        check(
            methods()["simclr"].Config, {"sampling": {"kind": "last_frames", "bakc": 1}}, "method."
        )
    with pytest.raises(UsageError, match="no kind 'last_frame'; did you mean last_frames"):
        mining_settings("last_frame", [])
    with pytest.raises(
        SettingError, match=r"no setting 'sampling\.bak'; did you mean sampling\.back"
    ):
        mining_settings("last_frames", ["sampling.bak=2"])


def test_two_families_cannot_share_a_kind():
    class Other(Sampling):
        kind: str = "frames"

    class Nameless(Sampling):
        pass

    for settings in (Other, Nameless):
        with pytest.raises(TypeError):
            register_sampler(settings)
    assert check(SamplesMining, {"sampling": {"kind": "frames"}}).sampling == FramesSampling()
    assert TimePairsSampling().model_dump()["kind"] == "time_pairs"
