"""What attends, what holds experts and what is cut over ranks is known by looking at the libraries' own modules."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from fp8doctor.checks.model.layers import linears
from fp8doctor.observed import Layer
from fp8doctor.observing.looking import look

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def layers(model: Any, kind: str) -> list[Layer]:
    return [layer for layer in look(model, ()).layers or () if layer.kind == kind]


def llama(**more: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=64, **more
    )
    return transformers.LlamaForCausalLM(config)


def test_an_attention_of_transformers_asks_for_what_its_configuration_names() -> None:
    model = llama(attn_implementation="eager")
    (attention,) = layers(model, "attention")
    assert (attention.name, attention.count, attention.implementation) == ("model.layers.*.self_attn", 2, "eager")
    assert (attention.k, attention.n, attention.keeps, attention.multiplies) == (None, None, None, None)
    assert "model.layers.*.self_attn.q_proj" in {layer.name for layer in layers(model, "linear")}
    model.config._attn_implementation = "flash_attention_2"
    assert [one.implementation for one in layers(model, "attention")] == ["flash_attention_2"]


def test_of_modules_in_one_another_the_one_that_attends_is_told() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, vocab_size=64
    )
    (attention,) = layers(transformers.BertModel(config), "attention")
    assert (attention.name, attention.count) == ("encoder.layer.*.attention.self", 3)
    assert attention.implementation == "sdpa"


def test_classes_of_their_own_name_the_implementation() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPTJConfig(n_embd=64, n_layer=1, n_head=4, rotary_dim=8, vocab_size=64)
    model = transformers.GPTJModel(config)
    module = pytest.importorskip("transformers.models.gptj.modeling_gptj")
    model.h[0].attn = module.GPTJFlashAttention2(config, 0)
    assert [one.implementation for one in layers(model, "attention")] == ["flash_attention_2"]


def flux() -> Any:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip


def test_an_attention_of_diffusers_asks_for_its_processors_backend() -> None:
    model = flux()
    found = layers(model, "attention")
    assert {(one.name, one.count, one.implementation) for one in found} == {
        ("transformer_blocks.*.attn", 1, "sdpa"),
        ("single_transformer_blocks.*.attn", 2, "sdpa"),
    }
    dispatch = pytest.importorskip("diffusers.models.attention_dispatch")
    model.transformer_blocks[0].attn.processor._attention_backend = dispatch.AttentionBackendName._FLASH_3
    assert [one.implementation for one in layers(model, "attention")] == ["_flash_3", "sdpa"]
    with dispatch.attention_backend("_native_math"):
        assert [one.implementation for one in layers(model, "attention")] == ["_flash_3", "_native_math"]


def test_older_processors_of_diffusers_are_known_by_their_class() -> None:
    processors = pytest.importorskip("diffusers.models.attention_processor")
    module = processors.Attention(query_dim=32, heads=2, dim_head=16)
    told = []
    for name in ("AttnProcessor2_0", "AttnProcessor", "SlicedAttnProcessor", "SanaLinearAttnProcessor2_0"):
        kind = getattr(processors, name)
        module.set_processor(kind(1) if "Sliced" in name else kind())
        told += [one.implementation for one in layers(torch.nn.Sequential(module), "attention")]
    assert told == ["sdpa", "eager", "eager", None]


def test_torchs_own_attention_is_told_and_so_is_a_library_that_is_not_imported() -> None:
    layer = torch.nn.TransformerEncoderLayer(32, 2, 64)
    assert [(one.name, one.implementation) for one in layers(layer, "attention")] == [("self_attn", "sdpa")]
    fused = type("FusedAttention", (torch.nn.Module,), {"__module__": "transformer_engine.pytorch.attention"})
    path = "transformer_engine.pytorch.attention.dot_product_attention.dot_product_attention"
    engine = type("DotProductAttention", (torch.nn.Module,), {"__module__": path})()
    engine.fused_attention = fused()
    found = layers(torch.nn.Sequential(engine), "attention")
    assert [(one.name, one.count, one.implementation) for one in found] == [("*", 1, "transformer-engine")]


def mixtral() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        num_local_experts=4, vocab_size=64,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config)


def test_experts_in_one_tensor_are_told_with_the_size_of_the_largest_and_are_no_linear_layers() -> None:
    model = mixtral().to(torch.bfloat16)
    (experts,) = layers(model, "experts")
    assert (experts.count, experts.experts, experts.k, experts.n) == (2, 4, 64, 192)
    assert (experts.dtype, experts.keeps, experts.multiplies) == ("bfloat16", "16-bit", "16-bit")
    assert "experts" not in {layer.kind for layer in linears(look(model, ()))}


def test_experts_that_keep_their_weights_the_other_way_round_are_told_apart() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GptOssConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, num_local_experts=4, vocab_size=64, pad_token_id=0,
    )  # fmt: skip
    (says_so,) = layers(transformers.GptOssForCausalLM(config), "experts")
    llama4 = pytest.importorskip("transformers.models.llama4.modeling_llama4")
    config = transformers.Llama4TextConfig(hidden_size=64, intermediate_size=96, num_local_experts=4)
    (shows,) = layers(torch.nn.Sequential(llama4.Llama4TextExperts(config)), "experts")
    aria = pytest.importorskip("transformers.models.aria.modeling_aria")
    (has_sizes,) = layers(torch.nn.Sequential(aria.AriaGroupedExpertsGemm(64, 192, 4)), "experts")
    assert {(one.experts, one.k, one.n) for one in (says_so, shows, has_sizes)} == {(4, 64, 192)}


def grouped_experts(dtype: Any) -> Any:
    """As torchtitan has them."""
    module = type("GroupedExperts", (torch.nn.Module,), {})()
    for name, shape in (("w1", (8, 96, 32)), ("w2", (8, 32, 96)), ("w1_scale", (8, 96, 1))):
        own = dtype if "scale" not in name else torch.float32
        setattr(module, name, torch.nn.Parameter(torch.zeros(shape, dtype=own), requires_grad=False))
    return module


@pytest.mark.parametrize(
    ("dtype", "size", "keeps", "multiplies"),
    [
        (torch.bfloat16, (32, 96), "16-bit", "16-bit"),
        (torch.float8_e4m3fn, (32, 96), "fp8", None),
        (torch.int8, (None, None), None, None),
    ],
)
def test_how_experts_in_fp8_are_multiplied_is_not_told_by_their_weights(
    dtype: Any, size: tuple[int | None, int | None], keeps: str | None, multiplies: str | None
) -> None:
    (experts,) = layers(grouped_experts(dtype), "experts")
    assert (experts.experts, (experts.k, experts.n)) == (8, size)
    assert (experts.keeps, experts.multiplies) == (keeps, multiplies)


def test_a_module_with_a_tensor_of_three_dimensions_holds_no_experts() -> None:
    module = torch.nn.Module()
    module.table = torch.nn.Parameter(torch.zeros(4, 8, 8))
    assert look(module, ()).layers == ()


def test_the_weights_of_a_conv1d_are_inputs_by_outputs() -> None:
    found = pytest.importorskip("transformers.pytorch_utils").Conv1D(128, 64)
    assert [(one.k, one.n) for one in layers(torch.nn.Sequential(found), "linear")] == [(64, 128)]


@pytest.fixture
def ranks() -> Iterator[ModuleType]:
    """A group of eight ranks in this process, of which this is the first: nothing is sent."""
    fake = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    torch.distributed.init_process_group("fake", store=fake.FakeStore(), rank=0, world_size=8)
    yield pytest.importorskip("torch.distributed.tensor")
    torch.distributed.destroy_process_group()


def pair() -> Any:
    model = torch.nn.Module()
    model.up = torch.nn.Linear(64, 256, bias=False)
    model.down = torch.nn.Linear(256, 64, bias=False)
    return model


def in_parallel(model: Any, mesh: Any) -> Any:
    parallel = pytest.importorskip("torch.distributed.tensor.parallel")
    plan = {"up": parallel.ColwiseParallel(), "down": parallel.RowwiseParallel()}
    return parallel.parallelize_module(model, mesh, plan)


def cut(model: Any) -> list[tuple[str | int | None, ...]]:
    return [(one.name, one.k, one.n, one.ranks, one.cut) for one in layers(model, "linear")]


def test_a_weight_that_is_cut_over_ranks_has_the_size_that_one_rank_multiplies(ranks: ModuleType) -> None:
    model = in_parallel(pair(), torch.distributed.init_device_mesh("cpu", (8,)))
    assert cut(model) == [("up", 64, 32, 8, "n"), ("down", 32, 64, 8, "k")]


def test_a_weight_that_every_rank_has_whole_is_not_cut(ranks: ModuleType) -> None:
    model, mesh = pair(), torch.distributed.init_device_mesh("cpu", (8,))
    whole = ranks.distribute_tensor(model.up.weight, mesh, [ranks.Replicate()])
    model.up.weight = torch.nn.Parameter(whole)
    assert cut(model) == [("up", 64, 256, None, None), ("down", 256, 64, None, None)]


def test_what_fsdp_gathers_before_the_product_is_not_cut(ranks: ModuleType) -> None:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    model = pair()
    fsdp.fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (8,)))
    assert type(model.up.weight).__name__ == "DTensor"
    assert cut(model) == [("up", 64, 256, None, None), ("down", 256, 64, None, None)]


def test_under_fsdp_the_tensor_parallel_part_of_the_cut_is_told(ranks: ModuleType) -> None:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    mesh = torch.distributed.init_device_mesh("cpu", (2, 4), mesh_dim_names=("dp", "tp"))
    model = in_parallel(pair(), mesh["tp"])
    fsdp.fully_shard(model, mesh=mesh["dp"])
    assert cut(model) == [("up", 64, 64, 4, "n"), ("down", 64, 64, 4, "k")]


def test_layers_of_transformer_engine_know_their_ranks() -> None:
    kind = type("Linear", (torch.nn.Linear,), {"__module__": "transformer_engine.pytorch.module.linear"})
    layer = kind(64, 32)
    layer.tp_size, layer.parallel_mode = 4, "column"
    assert cut(torch.nn.Sequential(layer)) == [("*", 64, 32, 4, "n")]


def test_a_thousand_layers_in_attentions_are_looked_at_in_a_second() -> None:
    model = torch.nn.Sequential(*(torch.nn.TransformerEncoderLayer(16, 2, 16) for _ in range(334)))
    began = time.perf_counter()
    assert sum(layer.count or 0 for layer in look(model, ()).layers or ()) == 4 * 334
    assert time.perf_counter() - began < 1.0
