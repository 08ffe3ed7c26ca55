"""A V-JEPA 2 encoder as weights that Hugging Face's `transformers` loads without marey."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import safetensors.torch
import yaml
from torch import Tensor

from marey.configs.errors import InputError
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.layouts import as_vjepa2
from marey.models.encoders.transformer import TUBELET, PatchTransformer
from marey.pipeline.embedding.baselines import encoder_location
from marey.pipeline.export.encoders import ExportedEncoder, compared, opened
from marey.pipeline.export.plain_weights import CONFIG, WEIGHTS
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.training.checkpoint import load_state, method_weights


def export_transformers(location: str, out: str) -> ExportedEncoder:
    """Write a folder with `model.safetensors` and `config.json` of a `VJEPA2Model`.

    With the predictor of the run's last checkpoint, where there is one. Run and compared where
    transformers is installed. Raises InputError for an encoder of another kind, and when what was
    written computes something else.
    """
    encoder, _ = opened(location)
    trunk = encoder.trunk
    if not isinstance(trunk, PatchTransformer) or trunk.positions != "rotary":
        raise InputError(
            f"{location}: transformers has networks like encoder.backbone=video_vit_... with "
            "encoder.positions=rotary (V-JEPA 2) alone; --to torch or --to onnx writes any encoder"
        )
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    predictor, heads = _predictor(Folder(encoder_location(location)))
    config = _config(encoder, trunk, predictor, heads)
    weights = as_vjepa2(state | predictor, (TUBELET, trunk.patch, trunk.patch))
    weights = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
    remarks = [] if predictor else ["without a predictor: the run has no checkpoint with one"]
    difference = 0.0
    if importlib.util.find_spec("transformers"):
        difference = _compared(encoder, config, weights)
    else:
        remarks.append("not run: transformers is not installed")
    folder = Folder(out)
    folder.write(CONFIG, json.dumps(config, indent=1).encode())
    folder.write(WEIGHTS, safetensors.torch.save(weights, {"format": "pt"}))
    return ExportedEncoder(
        f'model = transformers.VJEPA2Model.from_pretrained("{out}")\n'
        f"maps = model.get_vision_features(clips)  # float [N, {encoder.config.clip_frames}, 3, "
        f"{encoder.config.image_size}, {encoder.config.image_size}]",
        difference,
        "; ".join(remarks),
    )


def _predictor(run: Folder) -> tuple[dict[str, Tensor], int]:
    """The predictor of a run's last checkpoint under its names there, and its attention heads."""
    if not run.exists("config.yaml") or (state := load_state(run)) is None:
        return {}, 0
    settings = yaml.safe_load(run.read("config.yaml"))["config"]["method"]
    weights = method_weights(run, state)
    found = {name: t for name, t in weights.items() if name.startswith("predictor.")}
    return found, int(settings.get("predictor_heads") or 0)


def _config(
    encoder: Encoder, trunk: PatchTransformer, predictor: dict[str, Tensor], heads: int
) -> dict[str, Any]:
    width = trunk.levels[-1].channels
    block: Any = trunk.blocks.blocks[0]
    config = {
        "architectures": ["VJEPA2Model"], "model_type": "vjepa2", "patch_size": trunk.patch,
        "tubelet_size": TUBELET, "crop_size": encoder.config.image_size,
        "frames_per_clip": encoder.config.clip_frames, "hidden_size": width,
        "num_hidden_layers": len(trunk.blocks.blocks), "num_attention_heads": block.heads,
        "mlp_ratio": block.mlp[1].out_features / width, "layer_norm_eps": block.norm.eps,
    }  # fmt: skip
    if predictor:
        unseen = predictor["predictor.unseen"]
        config |= {
            "pred_hidden_size": unseen.shape[-1], "pred_num_attention_heads": heads,
            "pred_num_hidden_layers": sum(name.endswith(".norm.weight") and "blocks.blocks" in name
                                          for name in predictor),
            "pred_num_mask_tokens": 1 if unseen.ndim == 1 else len(unseen),
        }  # fmt: skip
    return config


def _compared(encoder: Encoder, config: dict[str, Any], weights: dict[str, Tensor]) -> float:
    """How far transformers' network is from the encoder's averaged map."""
    import transformers  # pyright: ignore[reportMissingImports]

    known = {key: value for key, value in config.items() if key != "architectures"}
    model = transformers.VJEPA2Model(transformers.VJEPA2Config(**known)).eval()
    missing, unknown = model.load_state_dict(weights, strict=False)
    if unknown or any(name.startswith("encoder.") for name in missing):
        raise InputError(f"transformers names its weights otherwise: {[*unknown, *missing][:3]}")

    class Averaged:
        """What of marey's encoder transformers has."""

        config = encoder.config
        preprocess = staticmethod(encoder.preprocess)

        def __call__(self, clips: Tensor) -> Tensor:
            return encoder.features(clips).flatten(2).mean(dim=2)

    def run(frames: Tensor) -> Tensor:
        clips = encoder.preprocess(frames).transpose(1, 2)
        return model.get_vision_features(clips).mean(dim=1)

    return compared(Averaged(), run, "transformers' network")  # pyright: ignore
