"""Settings: presets are valid, mistakes are refused by name, nothing is read in silence."""

import pytest

from marey.configs.errors import SettingError
from marey.configs.load import describe, override, presets, read_preset, run_config
from marey.configs.schema import RunConfig
from marey.models.method import methods
from marey.pipeline.cli.catalogue import describe_method


def check(*words, preset="demo"):
    tree = override(read_preset(preset), list(words))
    return run_config(tree, methods()[tree["name"]].Config)


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_valid_and_belongs_to_a_method(name):
    config = check(preset=name)
    assert config.name in methods()


def test_every_setting_is_explained():
    for method in methods().values():
        assert not [key for key, _, meaning in describe(method.Config) if not meaning]
    assert not [key for key, _, meaning in describe(RunConfig) if not meaning]


def test_a_group_that_is_unset_is_one_line_and_one_that_is_set_a_line_for_each_setting():
    """SimSiam's second crop is as its first; a list of defaults would say that it is not varied."""
    unset, given = (describe_method(preset)[0].splitlines() for preset in ("simsiam", "byol"))
    lines = [line.split(" = ") for line in unset if line.startswith("  method.crops.second")]
    assert lines == [["  method.crops.second", "None"]]
    assert not [line for line in given if line.startswith("  method.crops.second =")]
    assert "  method.crops.second.solarize = 0.2 (default 0.0)" in given


def test_words_change_single_settings():
    config = check("trainer.batch_size=4", "trainer.optimizer.lr=1e-3", "encoder.hidden=[8,16]")
    assert config.trainer.batch_size == 4
    assert config.trainer.optimizer.lr == 1e-3
    assert config.encoder.hidden == (8, 16)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.batchsize=4", r"no setting 'trainer\.batchsize'; did you mean batch_size"),
        ("trainr.batch_size=4", r"no setting 'trainr'; did you mean trainer"),
        ("method.temprature=1", r"no setting 'method\.temprature'; did you mean temperature"),
        ("method.sampling.pair=4", r"did you mean pairs"),
        ("trainer.optimizer.lrr=4", r"did you mean lr"),
        ("trainer.batch_size=0", r"trainer\.batch_size: .*greater than or equal to 1 \(given: 0\)"),
        ("trainer.epochs=many", r"trainer\.epochs: .*integer.*'many'"),
        ("data.backend=ffmpeg", r"data\.backend: .*'pyav'.*given: 'ffmpeg'"),
        ("encoder.image_size=7", r"encoder\.image_size"),
        ("trainer.workers=3", r"batch_size \(2\) must be a multiple"),
        ("data.decode_size=5", r"within 16 to 2160"),
        ("batch", r"'batch' is not of the form key=value"),
        ("trainer.batch_size.x=1", r"batch_size is a single value"),
        ("trainer=4", r"trainer: a group of settings, not a value \(given: 4\)"),
        ("method=4", r"method: a group of settings, not a value \(given: 4\)"),
        ("trainer.steps=[1", r"\A.*'trainer\.steps=\[1': the value is not YAML: .*\Z"),
    ],
)
def test_mistakes_are_refused_with_what_is_allowed(word, message):
    with pytest.raises(SettingError, match=message):
        check(word)


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
