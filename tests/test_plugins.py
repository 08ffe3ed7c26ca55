"""Who may have code imported, what a person reads where it fails, and any network as a backbone."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from marey.configs import plugins
from marey.configs.encoder import EncoderConfig
from marey.configs.errors import MareyError, SettingError, UsageError
from marey.models.encoders.encoder import Encoder
from marey.models.method import find_method
from marey.pipeline.embedding.encoder_files import export_encoder
from marey.pipeline.evaluate.protocols import find_protocol
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.video.backends import find_backend, open_decoder
from marey.pipeline.video.isolate import read_into
from marey.pipeline.video.packet_plan import FrameRequest
from marey.trackers import build
from tests.corpora import encode_corpus
from tests.outside import Outside

NET = """
from torch import nn
from marey.extend import register_backbone

print("the code of {name} runs")

@register_backbone("{name}_net")
def net():
    return nn.Conv2d(3, 8, 4, stride=4)
"""


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder with modules of somebody, and a package that declares one of its own as a plugin."""
    folder = tmp_path_factory.mktemp("folder")
    packages = tmp_path_factory.mktemp("packages")
    for name in ("sent", "named", "listed"):
        (folder / f"{name}.py").write_text(NET.format(name=name))
    (packages / "lab.py").write_text(NET.format(name="lab"))
    about = packages / "lab-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[marey.plugins]\nlab = lab\n")
    (folder / "broken.py").write_text("import numpy\n\nnumpy.no_such_thing\n")
    (folder / "needy.py").write_text("import a_package_that_is_not_there\n")
    encode_corpus(folder / "videos", events=1, views=1).rename(folder / "index.parquet")
    for name in ("sent", "named", "listed", "lab"):
        _write_run(folder / name, name)
    found = Outside(folder, packages)
    yield found
    found.close()


def _write_run(folder, name):
    """What a run with the network of a plugin leaves."""
    encoder = Encoder(EncoderConfig(backbone="tiny", image_size=16))
    export_encoder(Folder(str(folder)), encoder, {})
    about = json.loads((folder / "encoder.json").read_text())
    network = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4))
    state = {f"trunk.network.{key[2:]}": value for key, value in network.state_dict().items()}
    about["architecture"]["backbone"] = f"{name}_net"
    about["plugins"] = [name]
    import hashlib

    import safetensors.torch

    content = safetensors.torch.save(state)
    (folder / "encoder.safetensors").write_bytes(content)
    about["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "encoder.json").write_text(json.dumps(about))


def _embed(outside, run, *words, **environment):
    command = ["embed", run, "--data", "index.parquet", "-o", f"out-{run}", "--engine", "local"]
    return outside.marey(*command, *words, **environment)


def test_a_run_that_was_sent_imports_no_code(outside):
    code, printed = _embed(outside, "sent")
    assert code == 2
    assert "the code of sent" not in printed
    assert "sent/encoder.json needs the plugin 'sent'" in printed
    assert "--import sent" in printed


def test_a_recipe_that_was_sent_imports_no_code(outside):
    recipe = outside.folder / "recipe.yaml"
    for text in ("plugins: [sent]\nname: simclr", "name: sent:Method",
                 "name: simclr\nencoder: {backbone: 'sent:net'}"):  # fmt: skip
        recipe.write_text(text)
        code, printed = outside.marey(
            "train", "recipe.yaml", "--data", "index.parquet", "-o", "run", "--engine", "local"
        )
        assert code == 2, printed
        assert "the code of sent" not in printed
        assert "--import sent" in printed
    assert not (outside.folder / "run").exists()


def test_a_person_or_an_installation_has_it_imported(outside):
    code, printed = _embed(outside, "named", "--import", "named")
    assert (code, "the code of named runs" in printed) == (0, True), printed
    code, printed = _embed(outside, "listed", MAREY_PLUGINS="listed")
    assert (code, "the code of listed runs" in printed) == (0, True), printed
    code, printed = _embed(outside, "lab")
    assert (code, "the code of lab runs" in printed) == (0, True), printed


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("absent", "there is no module 'absent'"),
        ("broken", "AttributeError: module 'numpy' has no attribute 'no_such_thing'"),
        ("needy", "No module named 'a_package_that_is_not_there'"),
        ("broken.py", "did you mean broken?"),
    ],
)
def test_a_plugin_that_fails_is_named_with_its_error(outside, module, said):
    code, printed = outside.marey("methods", "--import", module)
    assert code in (1, 2)
    assert said in printed
    assert "Traceback" not in printed
    assert module not in ("broken", "needy") or f"{module}.py, line " in printed


@pytest.mark.parametrize(
    ("find", "name", "said"),
    [
        (find_method, "simlcr", "did you mean simclr"),
        (find_protocol, "kn", "did you mean knn"),
        (find_backend, "decrod", "did you mean decord"),
        (build, "kfc-hog", "did you mean kcf-hog"),
        (find_method, "nothing like it", "--import MODULE"),
    ],
)
def test_unknown_names_suggest_the_nearest(find, name, said):
    with pytest.raises(SettingError, match=said):
        find(name)


def test_a_dotted_name_needs_somebody_who_allows_it():
    with pytest.raises(UsageError, match="--import os"):
        EncoderConfig(backbone="os:abort") and Encoder(EncoderConfig(backbone="os:abort"))
    with pytest.raises(UsageError, match="--import os"):
        build("os:abort")


def test_a_dotted_name_that_is_not_there_suggests_the_nearest(monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "tests.test_plugins")
    with pytest.raises(SettingError, match="has no 'palin'; did you mean plain"):
        _encoder("palin")


def _opened_as_pyav(video):
    return open_decoder(
        video.uri, "pyav", video.stream, video.threads, video.deadline, video.stats, video.times_s
    )


def test_a_decoder_of_others_works_in_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "tests.test_plugins")
    video = encode_corpus(tmp_path, events=1, views=1).with_name("e0_v0.mp4")
    clips = {}
    for name in ("pyav", "tests.test_plugins:_opened_as_pyav"):
        failures, error = read_into(
            lambda clip, name=name: clips.update({name: clip.frames}), str(video),
            [FrameRequest(0, np.array([0.1, 0.5]))], suspected=True, backend=name,
        )  # fmt: skip
        assert (failures, error) == ({}, None)
    one, other = clips.values()
    np.testing.assert_array_equal(one, other)


def plain(in_channels=3):
    """A map, by `view`, as networks of others do."""

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(in_channels, 12, 4, stride=4)

        def forward(self, images):
            maps = self.first(images)
            return maps.view(len(images), -1).view(maps.shape)

    return Plain()


def vectors():
    """No map: one vector an image; its width is known once it has run."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(20))


class Levels(nn.Module):
    """Maps of two resolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 16, 2, stride=2)

    def forward(self, images):
        fine = self.first(images)
        return fine, self.second(fine)


def tokens():
    """Neither a map nor a vector."""
    return nn.Flatten(2)


def no_network():
    """A function that makes none."""
    return 3


def narrow():
    """Takes other images than it is given."""
    return nn.Conv2d(5, 8, 3)


def _encoder(name, **settings):
    return Encoder(
        EncoderConfig(backbone=f"tests.test_plugins:{name}", image_size=32, **settings)
    ).eval()


@pytest.mark.parametrize(
    ("name", "settings", "shape"),
    [
        ("plain", {}, (12, 8, 8)),
        ("vectors", {}, (20, 1, 1)),
        ("Levels", {}, (16, 8, 8)),
        ("Levels", {"stages": 1}, (8, 16, 16)),
        ("plain", {"input": "lab_split"}, (24, 8, 8)),
        ("plain", {"clip_frames": 4, "fusion": "stack"}, (12, 1, 8, 8)),
        ("plain", {"clip_frames": 4}, (12, 4, 8, 8)),
    ],
)
def test_any_network_is_a_backbone(monkeypatch, name, settings, shape):
    monkeypatch.setenv(plugins.VARIABLE, "tests.test_plugins")
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    encoder = _encoder(name, **settings)
    frames = torch.zeros(2, *[4] * ("clip_frames" in settings), 40, 40, 3, dtype=torch.uint8)
    features = encoder.features(encoder.preprocess(frames))
    assert features.shape == (2, *shape)
    assert encoder.out_dim == encoder(encoder.preprocess(frames)).shape[1] == shape[0]
    torch.random.set_rng_state(before)
    again = _encoder(name, **settings)
    again.load_state_dict(encoder.state_dict())


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("tokens", {}, r"gives torch.float32 \[1, 3, 1024\].* vectors \[N, D\] are needed"),
        ("no_network", {}, "made <class 'int'>, not an nn.Module"),
        ("narrow", {}, r"cannot be run on float \[1, 3, 32, 32\]: RuntimeError"),
        ("vectors", {"pretrained": True}, "no parameter pretrained"),
        ("narrow", {"input": "lab_split"}, "no parameter in_channels"),
        ("Levels", {"stages": 3}, "has 2 stages, asked for the first 3"),
        ("NET", {}, "a function that returns an nn.Module is needed"),
    ],
)
def test_what_is_no_backbone_is_refused_in_a_sentence(monkeypatch, name, settings, said):
    monkeypatch.setenv(plugins.VARIABLE, "tests.test_plugins")
    with pytest.raises(MareyError, match=said):
        _encoder(name, **settings)
