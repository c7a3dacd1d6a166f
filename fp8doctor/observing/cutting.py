"""Over how many ranks is a layer's weight cut for its product (tensor parallel), and what does one rank multiply?

Sources: torch 2.13, distributed/tensor (DTensor: `device_mesh` and one placement for each of its dimensions);
distributed/fsdp/_fully_shard/_fully_shard.py (FSDPModule) and _fsdp_param.py (FSDPParam: FSDP2 keeps its parameters as
DTensors as well and gathers them before the forward; how they are cut then is `_unsharded_dtensor_spec`, `_tp_spec` in
older releases; they are whole where it has neither); Transformer Engine's module/linear.py (`in_features` or
`out_features` is divided by `tp_size`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Cut:
    """What one rank multiplies of a K x N product."""

    ranks: int
    k: int
    n: int
    # "k" or "n"; None: both are cut.
    along: str | None


def gathered(model: Any) -> dict[int, Any] | None:
    """What FSDP2 keeps of the weights that it gathers, by the identity of their module; None: it does not tell."""
    found: dict[int, Any] = {}
    for module in model.modules():
        if not hasattr(type(module), "_get_fsdp_state"):
            continue
        try:
            state = module._get_fsdp_state()
            several = hasattr(state, "_fsdp_param_groups")
            for group in state._fsdp_param_groups if several else (state._fsdp_param_group,):
                for parameter in group.fsdp_params if group is not None else ():
                    of = parameter._module_info
                    owners = (of.module, *of.shared_modules)
                    names = (of.param_name, *of.shared_param_names)
                    found.update((id(o), parameter) for o, n in zip(owners, names, strict=True) if n == "weight")
        except AttributeError:  # another release may keep it elsewhere
            return None
    return found


def cut_of(module: Any, weight: Any, k: int, n: int, by_fsdp: dict[int, Any] | None) -> Cut | None:
    """How a linear layer is cut; None: not at all, or nothing says how.

    Args:
        module: the layer.
        weight: its weight.
        k: its inputs, as the layer has them.
        n: its outputs.
        by_fsdp: what `gathered` returned.
    """
    if type(module).__module__.startswith("transformer_engine"):
        return _of_engine(module, k, n)
    spec = _spec(module, weight, by_fsdp) if by_fsdp is not None else None
    if spec is None or tuple(getattr(weight, "shape", ())) != (n, k) or type(module).__name__.endswith("Conv1D"):
        return None
    over = [1, 1]
    for place, placement in enumerate(spec.placements):
        # "Shard", or "_StridedShard" where the same dimension is cut twice.
        if type(placement).__name__.endswith("Shard"):
            over[placement.dim] *= int(spec.mesh.size(place))
    for_n, for_k = over
    if for_n * for_k == 1:
        return None
    # The first ranks have one more where it does not go up evenly.
    return Cut(for_n * for_k, -(-k // for_k), -(-n // for_n), None if min(over) > 1 else "n" if for_n > 1 else "k")


def _spec(module: Any, weight: Any, by_fsdp: dict[int, Any]) -> Any:
    kept = by_fsdp.get(id(module))
    if kept is not None:
        return getattr(kept, "_unsharded_dtensor_spec", None) or getattr(kept, "_tp_spec", None)
    return getattr(weight, "_spec", None) if type(weight).__name__ == "DTensor" else None


def _of_engine(module: Any, k: int, n: int) -> Cut | None:
    ranks, mode = getattr(module, "tp_size", 1), getattr(module, "parallel_mode", None)
    along = {"column": "n", "row": "k"}.get(str(mode))
    return Cut(ranks, k, n, along) if along and isinstance(ranks, int) and ranks > 1 else None
