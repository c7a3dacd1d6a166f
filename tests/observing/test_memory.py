"""The memory of a step is told by what it is for; each storage counts once."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from fp8doctor.checks.model.exhibits import memory_table
from fp8doctor.measuring.stepping import Meter
from fp8doctor.observed import Memory, Model
from fp8doctor.observing import memory
from tests.observing.models import blocks

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

MB = 1e6


@dataclass
class Gpu(Meter):
    """A meter that says of the CPU what torch.cuda says of a GPU."""

    before: float = 0.0
    peak: float = 0.0

    on_gpu = True

    def wait(self) -> None:
        """Nothing runs beside the host."""

    def allocated_bytes(self) -> int:
        """As it was set."""
        return int(self.before)

    def forget_peak(self) -> None:
        """There is none but the one that was set."""

    def peak_bytes(self) -> int:
        """As it was set."""
        return int(self.peak)


def gpu(before: float, peak: float) -> Gpu:
    properties = SimpleNamespace(total_memory=80 * 10**9)
    cuda = SimpleNamespace(get_device_properties=lambda device: properties)
    return Gpu(SimpleNamespace(cuda=cuda), torch.device("cpu"), before=before, peak=peak)


def of(model: Any, before: float = 100 * MB, peak: float = 150 * MB, **more: Any) -> Any:
    return memory.account(model, lambda: None, gpu(before, peak), **more)


def test_what_lies_there_is_told_by_what_it_is_for() -> None:
    model = torch.nn.Linear(1000, 1000, bias=False)
    model.weight.grad = torch.ones_like(model.weight)
    model.register_buffer("table", torch.zeros(500_000))
    found = of(model)
    assert (found.weights_gb, found.buffers_gb, found.gradients_gb) == (0.004, 0.002, 0.004)
    # 100 less 4 + 2 + 4, less the copy of the buffer that is kept while a step runs
    assert found.other_gb == 0.088
    assert (found.step_gb, found.device_gb) == (0.05, 80.0)


def test_gradients_that_were_set_aside_are_the_models() -> None:
    model = torch.nn.Linear(1000, 1000, bias=False)
    assert of(model).gradients_gb == 0.0
    assert of(model, set_aside=[torch.ones(1000, 1000)]).gradients_gb == 0.004


def test_a_weight_that_two_layers_share_counts_once() -> None:
    one, two = torch.nn.Linear(1000, 1000, bias=False), torch.nn.Linear(1000, 500, bias=False)
    two.weight = torch.nn.Parameter(one.weight.data[:500])
    assert of(torch.nn.Sequential(one, two)).weights_gb == 0.004


def test_a_quantised_weight_is_its_values_and_its_scales() -> None:
    q = pytest.importorskip("torchao.quantization")
    model = torch.nn.Linear(1000, 1000, bias=False).bfloat16()
    q.quantize_(model, q.Float8WeightOnlyConfig())
    assert of(model).weights_gb in (0.001, 0.001002, 0.001004)


def test_a_wrapper_that_hides_its_data_leaves_it_unknown() -> None:
    class Hiding(torch.Tensor):  # type: ignore[misc,name-defined]
        @classmethod
        def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            raise NotImplementedError

    hidden = torch.Tensor._make_wrapper_subclass(Hiding, (1000, 1000), dtype=torch.bfloat16)
    model = SimpleNamespace(parameters=lambda: [hidden], buffers=lambda: [])
    hidden.grad = None
    found = of(model)
    assert (found.weights_gb, found.other_gb, found.step_gb) == (None, None, 0.05)
    hidden._data = torch.zeros(1000, 1000, dtype=torch.uint8)
    assert of(model).weights_gb == 0.001


def test_what_torchs_allocator_did_not_give_out_leaves_the_rest_unknown() -> None:
    found = of(torch.nn.Linear(1000, 1000), before=1 * MB)
    assert (found.weights_gb, found.other_gb) == (0.004, None)


def test_weights_elsewhere_do_not_count() -> None:
    assert of(torch.nn.Linear(1000, 1000, device="meta")).weights_gb == 0.0


def test_without_a_gpu_or_with_a_step_that_fails_nothing_is_known() -> None:
    assert memory.of_step(blocks(1), lambda: None, torch.device("cpu")) is None

    def fails() -> None:
        raise RuntimeError("out of memory")

    assert memory.account(blocks(1), fails, gpu(0, 0)) is None


def test_the_table_names_each_part_and_sums_where_all_are_known() -> None:
    known = Memory(24.0, 0.5, 0.0, 1.5, 14.0, 80.0)
    table = memory_table(Model(memory=known))
    assert table is not None
    cells = [row["cells"] for row in table.rows]
    assert cells[0] == {"what": "weights", "GB": "24.00", "of the GPU": "30 %"}
    assert cells[-1] == {"what": "in all, at the peak of a step", "GB": "40.00", "of the GPU": "50 %"}
    assert len(cells) == 6
    part = memory_table(Model(memory=Memory(step_gb=14.0)))
    assert part is not None
    assert [row["cells"]["of the GPU"] for row in part.rows] == [""]
    assert memory_table(Model()) is None
    assert memory_table(Model(memory=Memory())) is None
