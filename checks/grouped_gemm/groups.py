"""Groups of rows, one an expert: their sizes, where they end, and lining them up at multiples of 16.

Runs in the child; torch comes in as an argument. `ends` are int32 on the device, one an expert: the row after its last.
"""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

from fp8doctor.checks.torch_build.numerics import relative_error

# FP8 rows of a group that are added up over (the weight's gradient) must begin at multiples of 16 bytes (PyTorch,
# aten/src/ATen/native/cuda/GroupMMCommon.cuh); torchao asks for groups of multiples of 16
# (torchao/prototype/moe_training/fp8_grouped_mm.py, 0.17.0).
ALIGNMENT = 16
# The busiest expert gets this many times the rows of the idlest.
UNEVENNESS = 3.0


def uneven_sizes(rows: int, experts: int, seed: int = 0) -> tuple[int, ...]:
    """Sizes of `experts` groups of at least one row each, `rows` in all, the same for the same seed."""
    generator = random.Random(seed)
    loads = [generator.uniform(1.0, UNEVENNESS) for _ in range(experts)]
    sizes = [1 + int((rows - experts) * load / sum(loads)) for load in loads]
    sizes[-1] += rows - sum(sizes)
    return tuple(sizes)


def ends_of(torch: Any, sizes: tuple[int, ...], device: Any) -> Any:
    """Where each group ends."""
    return torch.tensor(sizes, device=device).cumsum(0).to(torch.int32)


def padded_rows(rows: int, experts: int, alignment: int = ALIGNMENT) -> int:
    """Rows that hold all groups however uneven they are: known without their sizes."""
    return (rows + experts * alignment) // alignment * alignment


def pad(torch: Any, x: Any, ends: Any, alignment: int = ALIGNMENT) -> tuple[Any, Any, Any]:
    """Line up the groups of `x` (M x K) at multiples of `alignment`, with zeros between, and without the host's help.

    Returns the padded rows, their ends, and where each row of `x` went.
    """
    sizes = torch.diff(ends, prepend=ends.new_zeros(1))
    padded_sizes = (sizes + alignment - 1) // alignment * alignment
    padded_ends = padded_sizes.cumsum(0).to(torch.int32)
    shift = (padded_ends - padded_sizes) - (ends - sizes)
    rows = x.shape[0]
    # With the size of its result given, repeat_interleave need not ask the device for it.
    shifts = torch.repeat_interleave(shift, sizes, output_size=rows)
    places = torch.arange(rows, device=x.device) + shifts
    padded = x.new_zeros((padded_rows(rows, ends.shape[0], alignment), x.shape[1]))
    return padded.index_copy_(0, places, x), padded_ends, places


def unpad(padded: Any, places: Any) -> Any:
    """The rows of a padded result, in their old order."""
    return padded.index_select(0, places)


def pad_by_list(torch: Any, x: Any, ends: Any, alignment: int = ALIGNMENT) -> Any:
    """Line up the groups group by group, with their sizes read back to the host: it waits for the device."""
    bounds = [0, *ends.tolist()]
    parts = []
    for start, end in pairwise(bounds):
        parts.append(torch.nn.functional.pad(x[start:end], (0, 0, 0, (start - end) % alignment)))
    return torch.cat(parts)


def reference(torch: Any, x: Any, weight: Any, sizes: tuple[int, ...]) -> Any:
    """The product in FP32, expert by expert: `x` (M x K), `weight` (experts x N x K), both rounded to BF16 before."""
    parts = x.float().split(list(sizes))
    return torch.cat([rows @ expert.float().t() for rows, expert in zip(parts, weight, strict=True)])


def worst_group_error(result: Any, exact: Any, sizes: tuple[int, ...]) -> float:
    """The relative error of the expert that is most wrong: one wrong among many hardly shows in the whole."""
    pairs = zip(result.split(list(sizes)), exact.split(list(sizes)), strict=True)
    return max(relative_error(rows, right) for rows, right in pairs)
