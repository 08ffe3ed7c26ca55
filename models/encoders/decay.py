"""Which parameters are decayed, and how fast each layer of an encoder learns."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from marey.configs.errors import SettingError


def decay_groups(
    parameters: Iterable[nn.Parameter],
    decay: float,
    *,
    spared: Collection[int] = (),
    everything: bool = False,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Groups of the trained parameters: matrices and kernels with decay, norms and biases without.

    spared: ids of parameters that are not decayed either (see `embeddings`). everything: norms and
    biases are decayed too. settings: what else holds for both, as the optimiser takes it. `vectors`
    says which group is of norms and biases. A group of none is left out.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [p for p in trained if p.ndim > 1 and id(p) not in spared]
    tables = [p for p in trained if p.ndim > 1 and id(p) in spared]
    vectors = [p for p in trained if p.ndim <= 1]
    kinds = ((matrices, True, False), (vectors, everything, True), (tables, False, False))
    return [
        {
            "params": chosen,
            "weight_decay": decay if decayed else 0.0,
            "decays": decayed,
            "vectors": single,
            **settings,
        }
        for chosen, decayed, single in kinds
        if chosen
    ]


def embeddings(model: nn.Module) -> set[int]:
    """Ids of the position embeddings, class tokens and bias tables of a model that its networks say
    are not to be decayed (`no_weight_decay`, as timm's have it)."""
    found: set[int] = set()
    for part in model.modules():
        names = getattr(part, "no_weight_decay", None)
        if callable(names):
            own = dict(part.named_parameters())
            for name in names():  # pyright: ignore[reportGeneralTypeIssues]
                # of a bias table only its last name is said
                same = [key for key in own if key == name or key.endswith(f".{name}")]
                found |= {id(own[key]) for key in same}
    return found


def layer_shares(trunk: nn.Module, share: float) -> dict[int, float]:
    """By the id of each parameter of a transformer, its share of the learning rate.

    Block n of N has `share` to the power N - n, what comes before the blocks N + 1, what comes
    after them 0 (BEiT, arXiv 2106.08254, appendix). Raises SettingError for other trunks.
    """
    blocks = next(
        (
            part
            for name, part in trunk.named_modules()
            if isinstance(part, nn.ModuleList | nn.Sequential) and name.endswith("blocks")
        ),
        None,
    )
    if blocks is None:
        raise SettingError(
            "trainer.optimizer.layer_decay is for transformers, whose trunk is a row of blocks: "
            "set it to 1"
        )
    count = len(blocks)
    shares = {id(p): share ** (count + 1) for p in trunk.parameters()}
    for name, parameter in trunk.named_parameters():
        if name.rpartition(".")[0].endswith("norm") and "blocks.0" not in name:
            shares[id(parameter)] = 1.0
    for place, block in enumerate(blocks):
        for parameter in block.parameters():
            shares[id(parameter)] = share ** (count - 1 - place)
    return shares
