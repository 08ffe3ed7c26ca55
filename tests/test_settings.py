"""Settings: presets are valid, mistakes are refused by name, nothing is read in silence."""

import pytest
import torch

from marey.configs.describe import describe
from marey.configs.errors import DependencyError, SettingError
from marey.configs.load import override, preset_with, presets, read_preset, run_config
from marey.configs.mining import SamplesMining, TracksMining
from marey.configs.schema import RunConfig, TrainerConfig
from marey.configs.tracking import declared_tracker, tracker_options
from marey.models.method import methods
from marey.pipeline.cli.catalogue import describe_method
from marey.pipeline.cli.declared import check_run, declared_methods
from marey.pipeline.evaluate.linear import PENALTIES
from marey.pipeline.evaluate.protocols import find_protocol, protocols, register_protocol
from marey.trackers import build, names


def check(*words, preset="demo"):
    tree = override(read_preset(preset), list(words))
    return run_config(tree, methods()[tree["name"]].Config)


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_valid_and_belongs_to_a_method(name):
    config = check(preset=name)
    assert config.name in methods()


def test_every_setting_is_explained():
    models = [method.Config for method in methods().values()]
    models += [protocol.settings for protocol in protocols().values()]
    models += [type(declared) for name in names() if (declared := declared_tracker(name))]
    for model in [*models, RunConfig, TracksMining, SamplesMining]:
        assert not [row.key for row in describe(model) if not row.meaning]


@pytest.mark.parametrize("name", names())
def test_what_is_shown_of_a_tracker_is_what_it_runs_with(name):
    declared = declared_tracker(name)
    assert declared is not None
    shown = declared.model_dump()
    try:
        built = build(name)
    except DependencyError:
        return
    for key, value in shown.items():
        own = getattr(built if hasattr(built, key) else built.settings, key)
        if key == "batch":
            assert own == 32
        else:
            assert own == (torch.device(value) if key == "device" else value), key
    assert tracker_options(name, {"persistent": True}) == {"persistent": True}
    assert build(name, **shown) is not None


def test_a_group_that_is_unset_is_one_line_and_one_that_is_set_a_line_for_each_setting():
    """SimSiam's second crop is as its first; a list of defaults would say that it is not varied."""
    unset, given = (describe_method(preset)[0].splitlines() for preset in ("simsiam", "byol"))
    lines = [line.split(" = ") for line in unset if line.startswith("  method.crops.second")]
    assert lines == [["  method.crops.second", "null"]]
    assert not [line for line in given if line.startswith("  method.crops.second =")]
    assert "  method.crops.second.solarize = 0.2  (default 0.0; 0 to 1)" in given


def test_words_change_single_settings():
    config = check("trainer.batch_size=4", "trainer.optimizer.lr=1e-3", "encoder.hidden=[8,16]")
    assert config.trainer.batch_size == 4
    assert config.trainer.optimizer.lr == 1e-3
    assert config.encoder.hidden == (8, 16)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "trainer.batchsize=4",
            r"'trainer\.batchsize'; did you mean trainer.batch_size",
        ),
        ("trainr.batch_size=4", r"no setting 'trainr\.batch_size'; did you mean trainer"),
        (
            "method.temprature=1",
            r"'method\.temprature'; did you mean method.temperature",
        ),
        ("method.sampling.pair=4", r"did you mean method\.sampling\.pairs"),
        ("trainer.optimizer.lrr=4", r"did you mean trainer\.optimizer\.lr"),
        ("trainer.batch_size=0", r"trainer\.batch_size: .*greater than or equal to 1 \(given: 0\)"),
        ("trainer.epochs=many", r"trainer\.epochs: .*integer.*'many'"),
        ("data.backend=ffmpeg", r"data\.backend: .*known are pyav.*given: 'ffmpeg'"),
        ("encoder.image_size=7", r"encoder\.image_size"),
        ("trainer.workers=3", r"batch_size \(2\) must be a multiple"),
        ("data.decode_size=5", r"within 16 to 2160"),
        ("batch", r"'batch' is not of the form key=value"),
        ("trainer.batch_size.x=1", r"batch_size is a single value"),
        ("trainer=4", r"trainer: a group of settings, not a value; such as \S+ \(given: 4\)"),
        ("method=4", r"method: a group of settings, not a value; such as \S+ \(given: 4\)"),
        ("trainer.steps=[1", r"\A.*'trainer\.steps=\[1': the value is not YAML: .*\Z"),
    ],
)
def test_mistakes_are_refused_with_what_is_allowed(word, message):
    with pytest.raises(SettingError, match=message):
        check(word)


def test_a_method_in_a_file_of_this_folder_is_offered_for_import(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "frame_gap.py").touch()
    with pytest.raises(SettingError, match=r"'frame_gap'; .*frame_gap\.py.* --import frame_gap"):
        read_preset("frame_gap")


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(SettingError, match=r"no method or preset 'dmo'; did you mean demo"):
        read_preset("dmo")


def test_a_file_of_settings_that_is_not_there_or_no_yaml_is_named(tmp_path):
    path = tmp_path / "own.yaml"
    with pytest.raises(SettingError, match=r"no such file: .*own\.yaml"):
        read_preset(str(path))
    path.write_text("a: [")
    with pytest.raises(SettingError, match=r"\A.*own\.yaml is not YAML: .*\Z"):
        read_preset(str(path))


def test_a_finished_runs_config_starts_another(tmp_path):
    import yaml

    config = check()
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"config": config.model_dump(mode="json"), "provenance": {}}))
    again = run_config(read_preset(str(path)), methods()[config.name].Config)
    assert again == config


def test_what_is_read_of_a_methods_file_is_what_the_file_declares():
    """Lists, help and refusals read a file without running it; they must not say another thing."""
    assert declared_methods().keys() == methods().keys()
    for name, declared in declared_methods().items():
        method = methods()[name]
        assert (declared.paper, declared.module) == (method.paper, method.__module__)
        assert describe(declared.config_model()) == describe(method.Config), name
        assert declared.config_model() is not method.Config, f"{name}: torch was needed"


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_checked_alike_with_and_without_torch(name):
    tree = read_preset(name)
    assert check_run(tree).model_dump() == check(preset=name).model_dump()


def test_a_typed_length_replaces_the_one_of_the_preset():
    assert read_preset("tcn")["trainer"].get("steps"), "the preset has no steps of its own"
    trainer = preset_with("tcn", ["trainer.epochs=3"])["trainer"]
    assert (trainer["epochs"], trainer["steps"]) == (3, None)
    assert preset_with("tcn", ["trainer.steps=7"])["trainer"]["steps"] == 7
    with pytest.raises(SettingError, match="give one of them"):
        preset_with("tcn", ["trainer.steps=7", "trainer.epochs=3"])


def test_a_probes_default_is_all_of_its_penalties():
    assert find_protocol("linear").settings().penalties == len(PENALTIES)


def test_a_protocol_of_somebody_else_is_one_like_the_others(tmp_path, monkeypatch, capsys):
    from marey.configs.base import Settings
    from marey.pipeline.cli.main import main
    from marey.pipeline.evaluate import protocols as room

    class CountSettings(Settings):
        """How many files lie in a folder."""

        times: int = 1
        """How often each is counted."""

    def count(inputs, settings):
        found = len(list(__import__("pathlib").Path(inputs.target).iterdir()))
        return {"figures": {"files": found * settings.times}}

    monkeypatch.setattr(room, "_registry", dict(room._registry))
    register_protocol("count", CountSettings, count, target="sequences", options=())
    (tmp_path / "a").touch()
    assert main(["eval", "count", str(tmp_path), "times=3"]) == 0
    assert "files" in capsys.readouterr().out
    assert main(["eval", "count", str(tmp_path), "time=3"]) == 2
    assert "did you mean times" in capsys.readouterr().err
    assert main(["eval", "count", str(tmp_path), "--labels", "x"]) == 2
    assert "does not use --labels" in capsys.readouterr().err
    with pytest.raises(SettingError, match="two evaluation protocols"):
        register_protocol("count", CountSettings, print)


def test_shards_are_not_compiled() -> None:
    with pytest.raises(ValueError, match="compile is not made for parallel=fsdp"):
        TrainerConfig(compile=True, parallel="fsdp")
