"""Which model does a file describe, and what is said where it describes none that can be called here?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fp8doctor.checks.workload.config_file import LARGEST_BYTES, NoModelError, read_plan
from fp8doctor.checks.workload.facts import WorkloadSeen
from fp8doctor.checks.workload.probe import gather
from fp8doctor.measuring.workloads import built_in, names
from fp8doctor.model import Request
from fp8doctor.plain import plain_problem
from tests.broken_packages import BrokenSite
from tests.tiny_plans import LLAMA_JSON, PIXART_JSON, SD3_JSON, WAN_JSON, written


def refusal(place: Path) -> str:
    with pytest.raises(NoModelError) as caught:
        read_plan(place)
    return str(caught.value)


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_config_json_of_diffusers_is_a_denoising_step_of_its_class(tmp_path: Path) -> None:
    config = {**WAN_JSON, "_diffusers_version": "0.33", "quantization_config": {"quant_method": "gguf"}}
    plan = read_plan(written(tmp_path, config, "my-video"))
    assert (plan.name, plan.library, plan.class_name) == ("my-video", "diffusers", "WanTransformer3DModel")
    assert plan.title == "WanTransformer3DModel of my-video"
    assert plan.config == {**{k: v for k, v in WAN_JSON.items() if k != "_class_name"}, "patch_size": (1, 2, 2)}
    assert plan.depth_keys == ("num_layers",)
    (step,) = plan.steps
    assert (step.name, step.sequence, step.text, step.tokens) == ("denoise", 4096, 256, 4352)


def test_a_config_json_of_transformers_is_a_forward_of_its_class(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, LLAMA_JSON, "small-llama"))
    assert (plan.name, plan.library, plan.class_name) == ("small-llama", "transformers", "LlamaForCausalLM")
    assert plan.config == {k: v for k, v in LLAMA_JSON.items() if k != "architectures"}
    assert plan.depth_keys == ("num_hidden_layers",)
    (step,) = plan.steps
    assert (step.name, step.sequence, step.title) == ("prefill", 512, "a forward of 512 tokens")


@pytest.mark.parametrize(("most", "tokens"), [(131072, 4096), (512, 512), (None, 4096), (0, 4096), ("many", 4096)])
def test_a_prompt_is_no_longer_than_the_model_takes(tmp_path: Path, most: Any, tokens: int) -> None:
    plan = read_plan(written(tmp_path, {**LLAMA_JSON, "max_position_embeddings": most}))
    assert plan.steps[0].sequence == tokens


def test_a_file_of_another_name_gives_the_model_its_own(tmp_path: Path) -> None:
    place = tmp_path / "sd3-medium.json"
    place.write_text(written(tmp_path, SD3_JSON).read_text())
    assert read_plan(place).name == "sd3-medium"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "is no JSON"),
        ("model: llama", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1, 2]", "is no JSON object"),
        ("null", "is no JSON object"),
        ("{}", 'names no model: diffusers writes "_class_name" into it, transformers "architectures"'),
        ('{"_class_name": 7}', "names no model"),
        ('{"_class_name": ["AutoencoderKL"]}', "names no model"),
        ('{"architectures": []}', "names no model"),
        ('{"architectures": [null]}', "names no model"),
        ('{"architectures": "LlamaForCausalLM"}', "names no model"),
        ('{"architectures": ["LlamaForCausalLM"]}', 'the configuration has no "model_type"'),
        ('{"architectures": ["LlamaForCausalLM"], "model_type": null}', 'has no "model_type"'),
    ],
)
def test_a_file_that_names_no_model_is_refused_in_words(tmp_path: Path, content: str, why: str) -> None:
    assert why in refusal(written(tmp_path, content))


def test_what_cannot_be_read_is_refused_in_words(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.json") == "none.json cannot be read: No such file or directory"
    assert refusal(tmp_path).endswith("cannot be read: Is a directory")
    picture = tmp_path / "picture.json"
    picture.write_bytes(b"\x89PNG\xff\xfe")
    assert "picture.json is no JSON" in refusal(picture)
    if os.geteuid() != 0:
        picture.chmod(0)
        assert refusal(picture) == "picture.json cannot be read: Permission denied"


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    place = tmp_path / "weights.json"
    with place.open("wb") as stream:
        stream.truncate(LARGEST_BYTES + 1)
    assert refusal(place) == "weights.json is too large for a configuration file"


# --- the probe -------------------------------------------------------------------------------------------------------


def seen(place: Path | str) -> WorkloadSeen:
    return gather(Request(workload=str(place)))


def why_not(place: Path) -> str:
    found = seen(place)
    assert found.workload is None
    assert found.asked == str(place)
    assert found.why_not is not None
    return found.why_not


def test_the_record_is_plain() -> None:
    assert plain_problem(WorkloadSeen) is None


@pytest.mark.parametrize("name", names())
def test_a_built_in_workload_is_known_by_its_name(name: str) -> None:
    assert seen(name) == WorkloadSeen(asked=name, workload=built_in(name))


def child(code: str, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PYTHONPATH": str(site)} if site else {})}
    lead = "import sys; from fp8doctor.checks.workload.probe import gather; from fp8doctor.model import Request\n"
    return subprocess.run([sys.executable, "-c", lead + code], capture_output=True, text=True, env=environment)


def test_what_a_built_in_workload_calls_is_known_without_a_torch(tmp_path: Path) -> None:
    site = BrokenSite(tmp_path)
    site.module("torch", "raise ImportError('libtorch_cuda.so: cannot open shared object file')\n")
    known = child("print(gather(Request(workload='flux')).workload.name)", tmp_path)
    assert (known.stdout, known.returncode) == ("flux\n", 0), known.stderr
    place = written(tmp_path, LLAMA_JSON, "llama")
    told = child(f"print(gather(Request(workload={str(place)!r})).why_not)", tmp_path)
    assert told.stdout == (
        "LlamaForCausalLM cannot be built: ImportError: libtorch_cuda.so: cannot open shared object file\n"
    ), told.stderr


def test_a_file_that_describes_no_model_says_so_and_needs_no_torch(tmp_path: Path) -> None:
    assert why_not(written(tmp_path, "[]")) == "config.json is no JSON object"


@pytest.mark.torch
def test_a_class_that_the_installed_diffusers_lacks_is_told(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    told = why_not(written(tmp_path, {"_class_name": "Flux9Transformer2DModel", "num_layers": 2}))
    assert told.startswith("diffusers.Flux9Transformer2DModel: AttributeError: ")


@pytest.mark.torch
def test_a_class_whose_inputs_nobody_wrote_down_is_told_with_those_that_are_known(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    config = {"_class_name": "AuraFlowTransformer2DModel", "num_mmdit_layers": 1, "num_single_dit_layers": 1}
    told = why_not(written(tmp_path, {**config, "attention_head_dim": 8, "num_attention_heads": 2}))
    assert told.startswith("what AuraFlowTransformer2DModel is called with is not known; known are Flux")


@pytest.mark.torch
def test_a_model_whose_own_code_raises_when_it_is_called_is_told(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    # PixArt puts three embeddings beside one another, which do not fill a width of 32.
    told = why_not(written(tmp_path, {**PIXART_JSON, "attention_head_dim": 16, "cross_attention_dim": 32}))
    assert told.startswith("PixArtTransformer2DModel failed: RuntimeError: ")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({**LLAMA_JSON, "model_type": "lama"}, "transformers.LlamaForCausalLM: ValueError: Unrecognized model"),
        ({**LLAMA_JSON, "architectures": ["LamaForCausalLM"]}, "transformers.LamaForCausalLM: AttributeError: "),
        ({**LLAMA_JSON, "num_attention_heads": 0}, "LlamaForCausalLM failed: ZeroDivisionError: "),
    ],
)
def test_a_configuration_that_transformers_refuses_is_told(tmp_path: Path, config: dict[str, Any], why: str) -> None:
    pytest.importorskip("transformers")
    assert why_not(written(tmp_path, config)).startswith(why)


@pytest.mark.torch
def test_a_model_of_ones_own_is_traced_from_its_file(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    place = written(tmp_path, LLAMA_JSON, "small-llama")
    found = seen(place)
    assert (found.asked, found.why_not) == (str(place), None)
    assert found.workload is not None
    assert (found.workload.name, found.workload.model_class) == ("small-llama", "transformers.LlamaForCausalLM")
