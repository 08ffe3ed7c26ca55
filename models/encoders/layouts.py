"""Weights of others under our names: which file layout is it, and what is each tensor here?

Pure renaming, from a state dict to a state dict. Known are our own files, timm's and torchvision's
networks (also wrapped, as training code leaves them), VideoMAE and V-JEPA 2 of Hugging Face and of
their authors, and V-JEPA of its authors.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]

NESTS = ("target_encoder", "teacher", "encoder", "student", "model", "state_dict", "method")
"""Keys of a training checkpoint under which a network's state dict stands, the better one first: of
two copies the momentum encoder's."""


def network_of(content: Mapping[str, object]) -> State:
    """The tensors of a file: those of a checkpoint's network, where it has several entries; with
    those of its `predictor` (V-JEPA's authors), under that name."""
    predictor = content.get("predictor")
    if isinstance(predictor, Mapping):
        rest = {name: inner for name, inner in content.items() if name != "predictor"}
        found = {**_bare(network_of(rest))}
        return found | {f"predictor.{n}": t for n, t in _bare(network_of(predictor)).items()}
    for name in NESTS:
        inner = content.get(name)
        if isinstance(inner, Mapping) and any(isinstance(t, Tensor) for t in inner.values()):
            return network_of(inner)
    return {name: t for name, t in content.items() if isinstance(t, Tensor)}


def _bare(state: State) -> dict[str, Tensor]:
    """Names without what V-JEPA's training code wraps networks in."""
    return {re.sub(r"^(module\.)?(backbone\.)?", "", name): t for name, t in state.items()}


def as_ours(state: State, wanted: Iterable[str]) -> dict[str, Tensor]:
    """The tensors under the names of a method (`encoder.trunk...`, `decoder...`).

    wanted: names of the method's own state dict, among which the layout is recognised. What fits no
    layout keeps its name.
    """
    wanted = set(wanted)
    if any(name.startswith("videomae.") for name in state):
        state = _of_hugging_face(state)
    elif any(name.startswith("encoder.layer.") for name in state):
        state = _of_vjepa2(state)
    elif any(".q_bias" in name or name.startswith("encoder_to_decoder") for name in state):
        state = _of_videomae(state)
    ways = (_same, _of_encoder, _of_plain, _of_timm, _of_stages)
    best: dict[str, Tensor] = {}
    for prefix in _prefixes(state):
        cut = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
        for way in ways:
            named = way(cut)
            if _matches(named, wanted) > _matches(best, wanted):
                best = named
    return best or dict(state)


def _matches(state: State, wanted: set[str]) -> int:
    return sum(name in wanted for name in state)


def _prefixes(state: State) -> list[str]:
    """What stands before the names of a wrapped network: `module.encoder_q.`, `backbone.`, ..."""
    counts: Counter[str] = Counter({"": len(state)})
    for name in state:
        parts = name.split(".")
        for length in range(1, min(4, len(parts))):
            counts[".".join(parts[:length]) + "."] += 1
    return [prefix for prefix, _ in counts.most_common(24)]


def _same(state: State) -> dict[str, Tensor]:
    """A checkpoint of ours."""
    return dict(state)


def _of_encoder(state: State) -> dict[str, Tensor]:
    """`encoder.safetensors` of ours."""
    return {f"encoder.{name}": t for name, t in state.items()}


def _of_timm(state: State) -> dict[str, Tensor]:
    """timm's and torchvision's networks of images; feature networks of timm flatten some names."""
    flat = {re.sub(r"^(stages|layers)\.(\d+)", r"\1_\2", name): t for name, t in state.items()}
    return {f"encoder.trunk.model.{name}": t for name, t in {**state, **flat}.items()}


def _of_stages(state: State) -> dict[str, Tensor]:
    """torchvision's networks of clips: a stem and four layers."""
    stages = {"stem": 0, "layer1": 1, "layer2": 2, "layer3": 3, "layer4": 4}
    found = {}
    for name, tensor in state.items():
        head, _, rest = name.partition(".")
        if head in stages:
            found[f"encoder.trunk.{stages[head]}.{rest}"] = tensor
    return found


_PLAIN = (
    (r"^blocks\.(\d+)\.norm1\.", r"blocks.blocks.\1.norm."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"blocks.blocks.\1.inwards."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"blocks.blocks.\1.outwards."),
    (r"^blocks\.(\d+)\.norm2\.", r"blocks.blocks.\1.mlp.0."),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", r"blocks.blocks.\1.mlp.1."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"blocks.blocks.\1.mlp.3."),
    (r"^norm\.", "blocks.norm."),
    (r"^patch_embed\.proj\.", "embed."),
)
"""Names of a plain transformer as most code has them, and as `PatchTransformer` has them."""


def _of_plain(state: State) -> dict[str, Tensor]:
    """A plain transformer (V-JEPA's authors; `_of_videomae`) as our transformer over patches."""
    found = {}
    for name, tensor in state.items():
        head, start = ("", "encoder.trunk.")
        for part in ("decoder.", "predictor."):
            if name.startswith(part):
                head = start = part
        ours = _of_predictor(name.removeprefix(head))
        for before, after in _PLAIN:
            ours = re.sub(before, after, ours)
        if ours == "embed.weight" and tensor.ndim == 5:
            tensor = tensor.permute(0, 2, 3, 4, 1).flatten(1)  # as `tubelets` lays values out
        found[start + ours] = tensor
    vectors = [found.pop(name) for name in sorted(found) if ".mask_tokens." in name]
    if vectors:
        found["predictor.unseen"] = torch.stack([vector.flatten() for vector in vectors])
    return found


def _of_predictor(name: str) -> str:
    """A tensor of the V-JEPA authors' predictor as one of a plain transformer."""
    parts = {"predictor_embed.": "project.", "predictor_proj.": "predict."}
    for theirs, ours in parts.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return re.sub(r"^predictor_(blocks|norm)\.", r"\1.", name)


def _of_videomae(state: State) -> dict[str, Tensor]:
    """The authors' VideoMAE with the names of a plain transformer.

    Keys have no bias there, which is the same as one of 0.
    """
    found = {}
    for name, tensor in state.items():
        name = name.removeprefix("module.").removeprefix("encoder.")
        if name.endswith((".q_bias", ".v_bias")):
            continue
        if name == "mask_token":
            name, tensor = "decoder.unseen", tensor.flatten()
        elif name == "encoder_to_decoder.weight":
            name = "decoder.project.weight"
            found["decoder.project.bias"] = torch.zeros(len(tensor), dtype=tensor.dtype)
        elif name.startswith("decoder.head."):
            name = name.replace("decoder.head.", "decoder.predict.")
        found[name] = tensor
    for name, queries in state.items():
        if name.endswith(".q_bias"):
            values = state[name.replace("q_bias", "v_bias")]
            ours = (
                name.removeprefix("module.").removeprefix("encoder.").replace("q_bias", "qkv.bias")
            )
            found[ours] = torch.cat([queries, torch.zeros_like(queries), values])
    return found


_LAYER = {
    "layernorm_before": "norm1",
    "attention.output.dense": "attn.proj",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
"""Parts of a block of Hugging Face's VideoMAE and of a plain transformer."""


def _of_hugging_face(state: State) -> dict[str, Tensor]:
    """Hugging Face's VideoMAE with the names of a plain transformer."""
    found: dict[str, Tensor] = {}
    inner = "attention.attention."
    for name, tensor in state.items():
        block = re.match(r"^(videomae\.encoder\.layer|decoder\.decoder_layers)\.(\d+)\.(.+)$", name)
        if block:
            side = "decoder." if block[1].startswith("decoder") else ""
            start, rest = f"{side}blocks.{block[2]}.", block[3]
            if rest == f"{inner}query.weight":
                parts = [state[name.replace("query", part)] for part in ("query", "key", "value")]
                found[f"{start}attn.qkv.weight"] = torch.cat(parts)
            elif rest in (f"{inner}q_bias", f"{inner}query.bias"):
                values = name.replace("q_bias", "v_bias").replace("query.bias", "value.bias")
                keys = state.get(name.replace("query.bias", "key.bias"), tensor)
                keys = torch.zeros_like(tensor) if keys is tensor else keys
                found[f"{start}attn.qkv.bias"] = torch.cat([tensor, keys, state[values]])
            else:
                part, _, kind = rest.rpartition(".")
                if part in _LAYER:
                    found[f"{start}{_LAYER[part]}.{kind}"] = tensor
            continue
        renamed = (
            name.replace("videomae.embeddings.patch_embeddings.projection.", "patch_embed.proj.")
            .replace("videomae.layernorm.", "norm.")
            .replace("decoder.head.", "decoder.predict.")
        )
        if name == "mask_token":
            renamed, tensor = "decoder.unseen", tensor.flatten()
        elif name == "encoder_to_decoder.weight":
            renamed = "decoder.project.weight"
            found["decoder.project.bias"] = torch.zeros(len(tensor), dtype=tensor.dtype)
        found[renamed] = tensor
    return found


_VJEPA2 = (
    ("norm1", "norm"),
    ("attention.proj", "outwards"),
    ("norm2", "mlp.0"),
    ("mlp.fc1", "mlp.1"),
    ("mlp.fc2", "mlp.3"),
)
"""Parts of a block of Hugging Face's V-JEPA 2, and of ours."""
_VJEPA2_REST = (
    ("encoder.embeddings.patch_embeddings.proj.", "encoder.trunk.embed."),
    ("encoder.layernorm.", "encoder.trunk.blocks.norm."),
    ("predictor.embeddings.predictor_embeddings.", "predictor.project."),
    ("predictor.embeddings.mask_tokens", "predictor.unseen"),
    ("predictor.layernorm.", "predictor.blocks.norm."),
    ("predictor.proj.", "predictor.predict."),
)
_ROWS = (
    ("encoder.layer.", "encoder.trunk.blocks.blocks."),
    ("predictor.layer.", "predictor.blocks.blocks."),
)
_QKV = ("query", "key", "value")


def _of_vjepa2(state: State) -> dict[str, Tensor]:
    """Hugging Face's V-JEPA 2, encoder and predictor, under our names."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for theirs, ours in _VJEPA2_REST:
            if name.startswith(theirs):
                found[ours + name.removeprefix(theirs)] = tensor
        for theirs, ours in _ROWS:
            if not name.startswith(theirs):
                continue
            number, _, rest = name.removeprefix(theirs).partition(".")
            part, _, kind = rest.rpartition(".")
            if part == "attention.query":
                start = f"{theirs}{number}.attention."
                parts = [state[f"{start}{letter}.{kind}"] for letter in _QKV]
                found[f"{ours}{number}.inwards.{kind}"] = torch.cat(parts)
            elif part in (known := dict(_VJEPA2)):
                found[f"{ours}{number}.{known[part]}.{kind}"] = tensor
    for name in ("encoder.trunk.embed.weight", "predictor.unseen"):
        if name in found:
            kernel = found[name].ndim == 5
            found[name] = (
                found[name].permute(0, 2, 3, 4, 1).flatten(1) if kernel else found[name][:, 0, 0]
            )
    if "predictor.unseen" in found and len(found["predictor.unseen"]) == 1:
        found["predictor.unseen"] = found["predictor.unseen"][0]
    return found


def as_vjepa2(state: State, patch: tuple[int, int, int]) -> dict[str, Tensor]:
    """A method's encoder and predictor as Hugging Face's `VJEPA2Model` names them, with the same
    bits; what it has no place for is left out.

    state: as `v_jepa` has it; patch: frames, height and width in pixels of a patch.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for theirs, ours in _VJEPA2_REST:
            if name.startswith(ours):
                found[theirs + name.removeprefix(ours)] = tensor
        for theirs, ours in _ROWS:
            if not name.startswith(ours):
                continue
            number, _, rest = name.removeprefix(ours).partition(".")
            part, _, kind = rest.rpartition(".")
            start = f"{theirs}{number}."
            if part == "inwards":
                for letter, piece in zip(_QKV, tensor.chunk(3), strict=True):
                    found[f"{start}attention.{letter}.{kind}"] = piece.contiguous()
            else:
                known = {ours: theirs for theirs, ours in _VJEPA2}
                found[f"{start}{known[part]}.{kind}"] = tensor
    kernel = "encoder.embeddings.patch_embeddings.proj.weight"
    unseen = "predictor.embeddings.mask_tokens"
    if kernel in found:
        whole = found[kernel].unflatten(1, (*patch, -1))
        found[kernel] = whole.permute(0, 4, 1, 2, 3).contiguous()
    if unseen in found:
        found[unseen] = found[unseen].reshape(-1, 1, 1, found[unseen].shape[-1])
    return found
