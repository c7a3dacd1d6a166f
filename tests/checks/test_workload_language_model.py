"""Our own language model is one: checked against transformers' Llama and against itself, in FP32, in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fp8doctor.checks.workload.language_model import LanguageModelConfig, language_model
from tests.tiny_plans import LLAMA_JSON, LM_SIZES

pytestmark = pytest.mark.torch
TOKENS = 12


@pytest.fixture(autouse=True)
def torch() -> Iterator[Any]:
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        yield torch


def made(**more: Any) -> Any:
    return language_model(LanguageModelConfig(**{**LM_SIZES, **more})).eval()


def some_tokens(torch: Any, batch: int = 2) -> Any:
    return torch.randint(0, LM_SIZES["vocabulary"], (batch, TOKENS))


def cache_of(torch: Any, batch: int, places: int) -> list[tuple[Any, Any]]:
    return [tuple(torch.zeros(batch, 2, places, 16) for _ in range(2)) for _ in range(LM_SIZES["layers"])]


def test_it_computes_what_a_llama_of_transformers_with_the_same_weights_computes(torch: Any) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(**LLAMA_JSON, rms_norm_eps=1e-5, rope_theta=10_000.0)
    theirs = transformers.LlamaForCausalLM(config).eval()
    ours = made().train()  # the logits of all places
    names = {
        "model.embed_tokens": "embedding",
        "model.layers": "blocks",
        "model.norm": "norm",
        "lm_head": "output",
        "self_attn.q_proj": "attention.q",
        "self_attn.k_proj": "attention.k",
        "self_attn.v_proj": "attention.v",
        "self_attn.o_proj": "attention.out",
        "mlp.gate_proj": "feed_forward.gate",
        "mlp.up_proj": "feed_forward.up",
        "mlp.down_proj": "feed_forward.down",
        "post_attention_layernorm": "feed_forward_norm",
        "input_layernorm": "attention_norm",
    }
    weights = {}
    for name, weight in theirs.state_dict().items():
        for theirs_name, our_name in names.items():
            name = name.replace(theirs_name, our_name)
        weights[name] = weight
    ours.load_state_dict(weights)
    tokens = some_tokens(torch)
    assert torch.allclose(ours(tokens), theirs(input_ids=tokens).logits, atol=1e-5)


def test_training_asks_for_all_logits_and_serving_for_the_last(torch: Any) -> None:
    model, tokens = made(), some_tokens(torch)
    last = model(tokens)
    assert last.shape == (2, 1, 96)
    every = model.train()(tokens)
    assert every.shape == (2, TOKENS, 96)
    assert torch.allclose(every[:, -1:], last, atol=1e-5)


def test_no_token_sees_those_after_it(torch: Any) -> None:
    model, tokens = made().train(), some_tokens(torch)
    other = tokens.clone()
    other[:, -1] = (tokens[:, -1] + 1) % 96
    before, after = model(tokens), model(other)
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1], atol=1e-3)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("new", [1, 3])
def test_what_is_decoded_from_a_cache_is_what_a_prefill_of_everything_gives(torch: Any, new: int, fused: bool) -> None:
    model, tokens = made(fused_qkv=fused), some_tokens(torch)
    known = TOKENS - new
    begun = cache_of(torch, 2, known)
    model(tokens[:, :known], begun)
    cache = [tuple(torch.cat((kept, torch.zeros(2, 2, new, 16)), dim=2) for kept in layer) for layer in begun]
    decoded = model(tokens[:, known:], cache)
    assert decoded.shape == (2, 1, 96)
    assert torch.allclose(decoded, model(tokens), atol=1e-5)
    assert not torch.allclose(decoded, model(tokens[:, known:]), atol=1e-3), "without what came before it is another"


def test_one_cache_of_a_block_serves_all_that_are_visited_in_its_place(torch: Any) -> None:
    model, tokens = made(), some_tokens(torch)
    assert model(tokens[:, -1:], cache_of(torch, 2, TOKENS)[:2]).isfinite().all()


def test_tied_weights_are_one_tensor(torch: Any) -> None:
    loose, tied = made(), made(tied=True)
    assert tied.output.weight is tied.embedding.weight
    count = [sum(p.numel() for p in model.parameters()) for model in (loose, tied)]
    assert count[0] - count[1] == 96 * 64


def test_query_key_and_value_in_one_layer_have_the_weights_of_three(torch: Any) -> None:
    apart, fused = made(), made(fused_qkv=True)
    assert sum(p.numel() for p in apart.parameters()) == sum(p.numel() for p in fused.parameters())
    q, k, v = (getattr(apart.blocks[0].attention, name).weight for name in "qkv")
    assert torch.cat((q, k, v)).shape == fused.blocks[0].attention.qkv.weight.shape
