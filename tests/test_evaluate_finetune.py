"""Does fine-tuning reach what the labels say, choose its rate on validation, and spare the run?"""

import json

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from marey.configs.encoder import EncoderConfig
from marey.configs.errors import InputError, MareyError, SettingError
from marey.models.encoders.encoder import Encoder
from marey.pipeline.cli.main import main
from marey.pipeline.embedding.encoder_files import export_encoder
from marey.pipeline.evaluate.finetune_network import Classifier, LabelledFrames, fine_tune
from marey.pipeline.evaluate.run import run_eval
from marey.pipeline.runtime.storage import Folder
from tests.corpora import encode_corpus

CONFIG = EncoderConfig(backbone="tiny", image_size=32, stages=2, embedding_dim=8)


def stripes(count, seed=0):
    """Noisy pictures whose class is the direction of their stripes; their colour is chance."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    wave = np.sin(np.arange(32) * 2 * np.pi / 8 + rng.uniform(0, 6, count)[:, None]) * 60
    frames = np.where(labels[:, None, None] == 1, wave[:, :, None], wave[:, None, :])
    frames = frames[..., None] + rng.uniform(80, 170, (count, 1, 1, 3))
    frames = frames + rng.normal(0, 10, (count, 32, 32, 3))
    return LabelledFrames(frames.clip(0, 255).astype(np.uint8), labels)


def make_encoder(seed=0, config=CONFIG):
    torch.manual_seed(seed)
    return Encoder(config).eval()


def test_a_rate_that_diverged_is_never_chosen():
    """What is no number would pass for the first class, which is half of the answers here."""
    parts = stripes(16), stripes(16, 1), stripes(10, 2)
    options = {"epochs": 2, "batch_size": 8}
    figures, chance = fine_tune(make_encoder(), *parts, 2, rates=(1e-6, 1e30), **options)
    assert figures["rate"] == 1e-6
    assert figures["validation_accuracy_per_rate"][1] == 0
    assert np.isfinite(chance).all()
    with pytest.raises(MareyError, match="diverged at all rates"):
        fine_tune(make_encoder(), *parts, 2, rates=(1e30,), **options)


def test_tuning_learns_what_the_labels_say_and_leaves_the_encoder_as_it_was():
    encoder = make_encoder()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    parts = stripes(64), stripes(32, 1), stripes(100, 2)
    options = {"epochs": 6, "batch_size": 16, "rates": (0.01, 0.03)}
    figures, chance = fine_tune(encoder, *parts, 2, **options)
    assert figures["accuracy"] > 0.9
    assert chance.shape == (100, 2)
    assert np.allclose(chance.sum(axis=1), 1)
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert not encoder.training
    again, same = fine_tune(encoder, *parts, 2, **options)
    assert np.array_equal(chance, same)
    assert again == figures
    rng = np.random.default_rng(3)
    shuffled = LabelledFrames(parts[0].frames, rng.permutation(parts[0].labels))
    figures, _ = fine_tune(encoder, shuffled, *parts[1:], 2, epochs=1, batch_size=16, rates=(0.01,))
    assert figures["accuracy"] < 0.75


def test_the_rate_is_chosen_on_validation_whatever_test_says():
    fit, choose, test = stripes(48), stripes(32, 1), stripes(40, 2)
    options = {"epochs": 4, "batch_size": 16}
    useless = (0.03, 10.0)  # the second learns nothing
    figures, chance = fine_tune(make_encoder(), fit, choose, test, 2, rates=useless, **options)
    assert figures["rate"] == 0.03
    assert figures["validation_accuracy"] == max(figures["validation_accuracy_per_rate"])
    _, alone = fine_tune(make_encoder(), fit, choose, test, 2, rates=(0.03,), **options)
    assert np.array_equal(chance, alone), "the network is not the one of the chosen rate"
    wrong = LabelledFrames(test.frames, 1 - test.labels)
    other, _ = fine_tune(make_encoder(), fit, choose, wrong, 2, rates=useless, **options)
    assert other["rate"] == 0.03
    assert other["accuracy"] == pytest.approx(1 - figures["accuracy"])
    wrong = LabelledFrames(choose.frames, 1 - choose.labels)
    misled, _ = fine_tune(make_encoder(), fit, wrong, test, 2, rates=useless, **options)
    assert misled["rate"] == 10.0


def test_the_head_learns_ten_times_faster_and_norms_do_not_decay():
    network = Classifier(make_encoder(), 3)
    logits = network(torch.randn(4, 3, 32, 32))
    assert torch.equal(logits, torch.zeros(4, 3))
    groups = network.groups(0.1)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(rates) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        rate = 1.0 if name.startswith("head") else 0.1
        assert rates[id(parameter)] == (pytest.approx(rate), 1e-4 if parameter.ndim > 1 else 0), (
            name
        )


def test_clips_are_tuned_as_frames_are():
    config = EncoderConfig(backbone="tiny", image_size=32, stages=2, clip_frames=2, clip_step_s=0.1)
    still = [stripes(n, seed) for n, seed in ((32, 0), (16, 1), (40, 2))]
    clips = [LabelledFrames(np.stack([p.frames, p.frames], axis=1), p.labels) for p in still]
    figures, _ = fine_tune(
        make_encoder(config=config), *clips, 2, epochs=5, batch_size=16, rates=(0.03,)
    )
    assert figures["accuracy"] > 0.8


def test_wrong_budgets_and_one_class_are_refused():
    parts = stripes(8), stripes(8), stripes(8)
    for wrong in ({"epochs": 0}, {"batch_size": 1}, {"rates": ()}, {"rates": (-1.0,)}):
        with pytest.raises(SettingError, match="epochs"):
            fine_tune(make_encoder(), *parts, 2, **wrong)
    one = LabelledFrames(parts[0].frames, np.zeros(8, int))
    with pytest.raises(InputError, match="two classes"):
        fine_tune(make_encoder(), one, *parts[1:], 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    export_encoder(Folder(str(folder)), make_encoder(), {})
    export_encoder(Folder(str(folder / "untrained")), make_encoder(1), {})
    return folder


def test_a_table_of_images_is_tuned_from_the_command_line(run, tmp_path, capsys):
    for name, count, seed in (("train", 60, 0), ("test", 30, 1)):
        part = stripes(count, seed)
        images = [cv2.imencode(".png", image)[1].tobytes() for image in part.frames]
        names = [f"{name} {n}" for n in range(count)]
        table = pa.table({"image": images, "label": part.labels, "name": names})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    words = f"eval finetune {run} --data {tmp_path / 'test.parquet'} --baseline {run / 'untrained'}"
    words += f" --gallery {tmp_path / 'train.parquet'} epochs=5 batch_size=16 rates=[0.01,0.03]"
    assert main([*words.split(), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["figures"]["accuracy"] > 0.8
    assert result["figures"]["frames_test"] == 30
    assert result["figures"]["frames_train"] == 48
    assert result["figures"].keys() == result["baseline"].keys()
    few = run_eval(
        "finetune", str(run),
        data=str(tmp_path / "test.parquet"), gallery=str(tmp_path / "train.parquet"),
        shots=2, epochs=1, batch_size=16, rates=[0.01],
    )  # fmt: skip
    assert few["figures"]["frames_train"] == few["figures"]["frames_validation"] == 4
    asked = {"shots": 2, "labelled": 1, "flip": True, "seed": 0, "attribute": "phase"}
    assert asked.items() <= few["settings"].items()


def test_labelled_videos_are_split_by_event(run, tmp_path):
    index = str(encode_corpus(tmp_path / "videos", events=6, views=2, num_frames=12))
    (tmp_path / "labels").mkdir()
    for n in range(6):
        state = {"fps": 12, "frames": [{"phase": t // 6} for t in range(12)]}
        (tmp_path / "labels" / f"e{n}.json").write_text(json.dumps(state))
    result = run_eval(
        "finetune", str(run), data=index, labels=str(tmp_path / "labels"), fps=0, epochs=1,
        batch_size=16, rates=[0.01],
    )  # fmt: skip
    figures = result["figures"]
    counts = [figures[f"frames_{part}"] for part in ("train", "validation", "test")]
    assert sum(counts) == 6 * 2 * 12
    assert all(count % 24 == 0 for count in counts), "an event is on two sides"
    with pytest.raises(InputError, match="share 6 events"):
        run_eval("finetune", str(run), data=index, labels=str(tmp_path / "labels"), gallery=index)
    with pytest.raises(InputError, match="no weights to tune"):
        run_eval("finetune", "pixels", data=index, labels=str(tmp_path / "labels"))
    with pytest.raises(InputError, match="--labels"):
        run_eval("finetune", str(run), data=index)
