"""A slug names a configuration: it is taken apart, put into words, and refused with what there is."""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp8doctor.checks.ladder.conversions import BASES, LORA, PACKAGES, SDPA
from fp8doctor.checks.ladder.naming import how, label, number_format
from fp8doctor.checks.ladder.outcomes import not_here
from fp8doctor.checks.ladder.slugs import (
    BASELINE,
    CACHES,
    COMPILE,
    FORWARD,
    MODIFIERS,
    SHORT,
    TRAINING,
    NoSuchConfigError,
    config_of,
)
from fp8doctor.checks.torch_build.numerics import FORMAT_ERRORS
from fp8doctor.checks.transformer_engine.facts import Recipe, TransformerEngine
from fp8doctor.checks.workload.build import build
from fp8doctor.checks.workload.catalogue import ModelPlan
from tests.tiny_plans import TINY_FLUX, TINY_QWEN

ATTENTIONS = (*SDPA, *PACKAGES)
GROUPS = (tuple(LORA), ATTENTIONS, COMPILE, ("cudagraph",), CACHES)
EVERY = sorted({*FORWARD, *TRAINING, *(slug for some in SHORT.values() for slug in some)})
# Of models: whose blocks are known, whose library is known, and of which nothing is known.
CLASSES = ("diffusers.FluxTransformer2DModel", "diffusers.X", "transformers.X", "fp8doctor.LanguageModel", None)
parts = st.tuples(*(st.sampled_from((None, *group)) for group in GROUPS))


@given(st.sampled_from(sorted(BASES)), parts)
def test_a_slug_is_its_base_and_its_modifiers(base: str, chosen: tuple[str | None, ...]) -> None:
    modifiers = tuple(m for m in chosen if m)
    config = config_of("+".join((base, *modifiers)))
    assert (config.base, config.modifiers) == (base, modifiers)
    assert "+".join((config.base, *config.modifiers)) == config.slug
    assert config.compiled == next((m for m in modifiers if m in COMPILE), None)
    assert config.graphed == ("cudagraph" in modifiers)
    assert config.cache == next((m for m in modifiers if m in CACHES), None)
    assert config.numerics in FORMAT_ERRORS
    assert label(config.slug).count(" + ") == len(modifiers)


@given(st.text(max_size=40))
def test_text_that_begins_with_no_base_is_no_configuration(text: str) -> None:
    if text.partition("+")[0] not in BASES:
        with pytest.raises(NoSuchConfigError, match="there is torch-bf16"):
            config_of(text)


@given(st.sampled_from(sorted(BASES)), st.text("abcdefgh-0123456789", min_size=1, max_size=12))
def test_an_unknown_part_is_refused_with_what_there_is(base: str, part: str) -> None:
    if part not in MODIFIERS:
        with pytest.raises(
            NoSuchConfigError, match=re.escape(f"no modifier {part!r}; there is {', '.join(MODIFIERS)}")
        ):
            config_of(f"{base}+{part}")
    with pytest.raises(NoSuchConfigError, match=re.escape(f"there is {', '.join(BASES)}")):
        config_of(f"{base}{part}x")


@pytest.mark.parametrize("slug", ["", "+compile", "torch-bf16+", "torch-bf16 +compile", "TORCH-BF16"])
def test_a_slug_is_exact(slug: str) -> None:
    with pytest.raises(NoSuchConfigError):
        config_of(slug)


@pytest.mark.parametrize(
    ("slug", "why"),
    [
        ("torch-bf16+compile+compile-whole", "compile and compile-whole exclude one another"),
        ("torch-bf16+compile+compile", "compile stands there twice"),
        ("torch-bf16+cudagraph+cudagraph", "cudagraph stands there twice"),
        ("torch-bf16+attention-flash+attention-fa3", "attention-flash and attention-fa3 exclude one another"),
        ("torch-bf16+lora+lora-fused", "lora and lora-fused exclude one another"),
        ("torch-bf16+cache-mag+cache-faster", "cache-mag and cache-faster exclude one another"),
    ],
)
def test_what_excludes_one_another_is_no_configuration(slug: str, why: str) -> None:
    with pytest.raises(NoSuchConfigError, match=why):
        config_of(slug)


def test_settings_of_torchaos_row_wise_layers_go_with_these_alone() -> None:
    # They are that conversion's: on another base, another configuration would be measured under this one's name.
    assert config_of("torchao-fp8-rowwise+compile+tuned").modifiers == ("compile", "tuned")
    for base in ("torch-bf16", "torchao-fp8-tensorwise", "te-fp8-current"):
        with pytest.raises(NoSuchConfigError, match="tuned goes with torchao-fp8-rowwise"):
            config_of(f"{base}+tuned")


@pytest.mark.parametrize("base", sorted(BASES))
def test_results_are_held_against_what_their_own_format_costs(base: str) -> None:
    limits = {"bf16": "bf16", "fp16": "bf16", "int8": "int8", "mxfp8": "mxfp8", "nvfp4": "nvfp4"}
    one_operand = base.endswith(("weightonly", "storage"))
    assert config_of(base).numerics == limits.get(number_format(base), "e4m3-one-operand" if one_operand else "e4m3")


@pytest.mark.parametrize("slug", EVERY)
def test_every_rung_of_the_ladders_is_a_configuration_with_a_name_and_code(slug: str) -> None:
    config = config_of(slug)
    words = label(slug)
    assert config.base not in words, "a name in words"
    assert not any(m in words.split(" + ") for m in config.modifiers)
    assert number_format(slug) in ("bf16", "fp16", "fp8", "int8", "mxfp8", "nvfp4")
    for model_class, trains in product(CLASSES, (False, True)):
        code = how(slug, model_class, trains=trains)
        ast.parse(code)
        assert max(map(len, code.splitlines())) < 100
        assert ("block.compile()" in code) == (config.compiled == "compile")
        assert ("torch.cuda.graph" in code) == config.graphed
        assert "blocks" not in names(code) or "blocks = " in code, "no name that nothing has given a value"


@pytest.mark.parametrize(
    ("model_class", "blocks"),
    [
        ("diffusers.FluxTransformer2DModel", "[*model.transformer_blocks, *model.single_transformer_blocks]"),
        ("diffusers.QwenImageTransformer2DModel", "model.transformer_blocks"),
        ("transformers.LlamaForCausalLM", "model.model.layers"),
        ("fp8doctor.LanguageModel", "model.layers  # in transformers: model.model.layers"),
        (None, "model.layers  # the model's repeated blocks, whatever it calls them"),
    ],
)
def test_code_names_the_blocks_where_the_model_keeps_them(model_class: str | None, blocks: str) -> None:
    assert f"blocks = {blocks}" in how("torch-bf16+compile", model_class).splitlines()


def test_a_lora_is_fused_by_the_library_that_the_model_is_of() -> None:
    for model_class, call in (
        ("diffusers.X", "pipe.fuse_lora()"),
        ("transformers.X", "model = model.merge_and_unload()"),
    ):
        assert how("torch-bf16+lora-fused", model_class).startswith(call)
    assert "merge_and_unload" in how("torch-bf16+lora-fused")


def test_a_graph_is_of_the_whole_step_as_it_was_measured() -> None:
    code = how("te-fp8-delayed+cudagraph")
    step, _, rest = code.partition("side = torch.cuda.Stream()")
    assert "with torch.no_grad(), te.autocast(enabled=True, recipe=DelayedScaling()):" in step
    assert rest.index("range(3): step()") < rest.index("torch.cuda.graph(graph)"), "warm before it is captured"
    trained = how("torchao-fp8train-tensorwise+compile+cudagraph", trains=True)
    assert "torch.no_grad()" not in trained
    assert trained.index("backward()") < trained.index("optimizer.step()") < trained.index("torch.cuda.Stream()")


def names(code: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("ladder", [FORWARD, TRAINING, *SHORT.values()])
def test_bf16_comes_first_and_nothing_twice(ladder: tuple[str, ...]) -> None:
    assert ladder[0] == BASELINE
    assert len(set(ladder)) == len(ladder)


@pytest.mark.parametrize(
    ("slug", "library"),
    [
        ("torch-bf16+compile", None),
        ("torchao-fp8-rowwise+compile", "torchao"),
        ("te-fp8-current", "transformer_engine"),
        ("diffusers-fp8-storage", "diffusers"),
        ("torch-bf16+lora", "peft"),
        ("torch-bf16+cache-mag", "diffusers"),
        ("torch-bf16+attention-flash", None),
    ],
)
def test_what_must_be_installed(slug: str, library: str | None) -> None:
    assert config_of(slug).library == library
    if library is None or find_spec(library) is not None:
        assert not_here(config_of(slug), None) is None
    else:
        assert not_here(config_of(slug), None) == f"{library} is not installed"


def test_a_package_of_attention_must_be_installed_beside_diffusers() -> None:
    config = config_of("torch-bf16+attention-fa3")
    assert config.library == "diffusers"
    if find_spec("diffusers") is not None and find_spec("flash_attn_interface") is None:
        assert not_here(config, None) == "flash_attn_interface is not installed"


def test_a_recipe_that_transformer_engine_does_not_offer_here_need_not_be_tried() -> None:
    te = TransformerEngine(recipes=(Recipe("NVFP4BlockScaling", available=False, reason="needs capability 10.0"),))
    said = not_here(config_of("te-nvfp4"), te)
    expected = "needs capability 10.0" if find_spec("transformer_engine") else "transformer_engine is not installed"
    assert said == expected


@pytest.mark.torch
@pytest.mark.parametrize("plan", [TINY_FLUX, TINY_QWEN], ids=lambda plan: plan.name)
def test_the_blocks_that_code_names_are_those_that_were_converted(plan: ModelPlan) -> None:
    pytest.importorskip("diffusers")
    import torch

    built = build(plan, "cpu", torch.float32, blocks=2)
    code = ast.parse(how("torch-bf16+compile", f"{plan.library}.{plan.class_name}"))
    (blocks,) = (n.value for n in ast.walk(code) if isinstance(n, ast.Assign) and "blocks" in ast.unparse(n.targets[0]))
    assert {node.attr for node in ast.walk(blocks) if isinstance(node, ast.Attribute)} == set(built.depth)
