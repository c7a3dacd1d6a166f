"""Which blocks does a model repeat, and with what, and within what, does a step call them?

torch is imported inside: this runs where the model is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from fp8doctor.checks.model.trying.remembering import Remembered, of_its_own
from fp8doctor.checks.transformer_engine.layers import autocast_now
from fp8doctor.observing.looking import own, repeated

# Blocks with weights of their own are timed in turn: a block by itself finds a part of its weights in L2, and is up to
# a tenth faster than in the model (FLUX and Llama 3 on an H200, benchmarks/RESULTS.md).
IN_TURN = 4
Around = Callable[[], contextlib.AbstractContextManager[Any]]


@dataclass
class Block:
    """One kind of block: the first of its list and some like it, how many there are, and what it is called with."""

    # The list that it stands in; "" is the model itself, which repeats nothing.
    name: str
    module: Any
    # All of its kind. The first few are called in turn when they are timed.
    alike: list[Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    # The kinds of one list are told apart by this.
    kind: int = 0
    # Autocasts that were on round the call.
    around: list[Around] = field(default_factory=list)
    # What the first of its kind returned.
    output: Any = None
    # Whether it stands in a list; a model that repeats nothing is called as a whole.
    listed: bool = True
    # How often a step calls each of them, and whether a backward does once more (gradient checkpointing).
    calls: int = 1
    again_in_backward: bool = False
    # Its kind as they stand in the list, where torch.compile may have wrapped them.
    as_they_stand: list[Any] = field(default_factory=list)
    # Which of the tensors that it is called with it overwrites, by their place among the leaves of its arguments.
    overwritten: frozenset[int] = frozenset()
    # What else it changes of that which it is called with.
    remembered: Remembered = field(default_factory=lambda: Remembered(()))

    def tensors(self) -> list[Any]:
        """All tensors that it is called with."""
        import torch

        leaves = torch.utils._pytree.tree_leaves((self.arguments, self.keywords))
        return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]

    @property
    def count(self) -> int:
        """How many there are of its kind."""
        return len(self.alike)

    @property
    def key(self) -> str:
        """Its name among the blocks of a model."""
        return self.name + (f"#{self.kind}" if self.kind else "")

    def layer_name(self, name: str) -> str:
        """A layer's name within the model: "blocks.*.attn.to_q"; "*.attn.to_q" of a list that is the model itself."""
        return f"{self.name}.*.{name}".removeprefix(".") if self.listed else name

    def call(self, module: Any) -> Any:
        """The output of a module that is called as this block is."""
        with contextlib.ExitStack() as stack:
            for around in self.around:
                stack.enter_context(around())
            arguments, keywords = self._given()
            self.remembered.restore()
            return module(*arguments, **keywords)

    def _given(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not self.overwritten:
            return self.arguments, self.keywords
        from torch.utils import _pytree

        leaves, spec = _pytree.tree_flatten((self.arguments, self.keywords))
        given = [leaf.clone() if place in self.overwritten else leaf for place, leaf in enumerate(leaves)]
        return _pytree.tree_unflatten(given, spec)  # type: ignore[no-any-return]

    def cast(self, before: Any, after: Any) -> Block:
        """The same, called with tensors of another type; autocasts do that by themselves."""
        import torch

        if before == after or self.around:
            return self

        def moved_one(tensor: Any) -> Any:
            return _kept(tensor, after) if tensor.dtype == before else tensor

        moved = torch.utils._pytree.tree_map_only(torch.Tensor, moved_one, (self.arguments, self.keywords))
        return replace(self, arguments=moved[0], keywords=moved[1], remembered=Remembered(moved))


def kinds_of_blocks(model: Any, step: Callable[[], Any]) -> list[Block]:
    """One block of each kind that the model repeats, with the inputs of a step; or the model, if it repeats none.

    Args:
        model: a torch.nn.Module, which is called by `step` and not compiled as a whole.
        step: one step.
    """
    found: list[Block] = []
    with contextlib.ExitStack() as stack:
        lists = list(repeated(model)) or [("", [model])]
        listed = lists[0][1][0] is not model
        for name, members in lists:
            kinds: dict[Any, list[Any]] = {}
            for member in members:
                kinds.setdefault(_sizes(own(member)), []).append(member)
            for kind, alike in enumerate(kinds.values()):
                stack.enter_context(_noting(name, kind, alike, found))
        step()
    for block in found:
        block.listed = listed
    return found


def _sizes(module: Any) -> tuple[Any, ...]:
    return tuple((name, tuple(p.shape)) for name, p in module.named_parameters())


@contextlib.contextmanager
def _noting(name: str, kind: int, alike: list[Any], found: list[Block]) -> Iterator[None]:
    """Note the first call of a block; compiled, it is called as it is meanwhile: a hook would have it compiled anew."""
    import torch
    from torch.utils import _pytree

    first = alike[0]
    versions: list[tuple[Any, int]] = []
    compiled = getattr(first, "_compiled_call_impl", None)

    def note(module: Any, arguments: Any, keywords: Any) -> None:
        for block in found:
            if block.module is own(first):
                in_backward = torch._C._current_graph_task_id() != -1
                block.again_in_backward |= in_backward
                block.calls += not in_backward
                return
        versions.extend((leaf, _version(leaf)) for leaf in _pytree.tree_leaves((arguments, keywords)))
        kept = _pytree.tree_map(_own, (arguments, keywords))
        plain, around = [own(one) for one in alike], _on_now(torch)
        found.append(Block(name, plain[0], plain, kept[0], kept[1], kind, around, as_they_stand=alike))
        found[-1].remembered = Remembered(kept)

    def note_output(module: Any, arguments: Any, output: Any) -> None:
        block = next((block for block in found if block.module is own(first)), None)
        if block is not None and block.output is None:
            changed = [place for place, (leaf, version) in enumerate(versions) if _version(leaf) != version]
            block.overwritten = frozenset(changed)
            versions.clear()
            block.output = _pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), output)

    if compiled is not None:
        first._compiled_call_impl = None
    handles = [first.register_forward_pre_hook(note, with_kwargs=True), first.register_forward_hook(note_output)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        if compiled is not None:
            first._compiled_call_impl = compiled


def _own(leaf: Any) -> Any:
    import torch

    return _kept(leaf) if isinstance(leaf, torch.Tensor) else of_its_own(leaf)


def _version(leaf: Any) -> int:
    """How often a tensor was written to; those of inference mode do not count it."""
    import torch

    return int(leaf._version) if isinstance(leaf, torch.Tensor) and not leaf.is_inference() else 0


def _kept(tensor: Any, dtype: Any = None) -> Any:
    """A copy of a tensor that asks for a gradient if it does: so much of a backward is for the block before."""
    return tensor.detach().to(dtype or tensor.dtype, copy=True).requires_grad_(tensor.requires_grad)


def _on_now(torch: Any) -> list[Around]:
    """The autocasts that are on: torch's for either device, and Transformer Engine's."""
    found: list[Around] = []
    for device in ("cuda", "cpu"):
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            found.append(lambda device=device, dtype=dtype: torch.autocast(device, dtype=dtype))  # type: ignore[misc]
    engine = autocast_now()
    return [*found, engine] if engine is not None else found
