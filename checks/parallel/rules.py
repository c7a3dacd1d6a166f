"""What takes FP8's gain away on several GPUs? Lessons from steps that the doctor ran itself."""

from __future__ import annotations

from fp8doctor.checks.machine.facts import Machine
from fp8doctor.checks.parallel.cases import (
    WORDS,
    Gain,
    Measured,
    exposed_share,
    gain_line,
    unmeasured,
    where,
    without_waiting,
)
from fp8doctor.checks.parallel.facts import Parallel
from fp8doctor.checks.parallel.plan import DATA, FP8, GATHERED, GATHERED_EACH, SHARDED, TENSOR
from fp8doctor.measuring.statistics import differs, speedup
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, Severity, Unknown, Verdict, observed
from fp8doctor.model import Gain as Gained
from fp8doctor.registry import rule

# Less than a twentieth is not told: two runs of a step on one box agree within 3 % (benchmarks/RESULTS.md).
LEAST = 0.05
FIRST_GPU_ALONE = "FP8's gain on one GPU"


@rule("PAR001", "comm-bound", Severity.INFO, scope="usage", explains=("fp8-slower-across-gpus",))
def communicates(parallel: Parallel) -> list[Verdict] | Verdict:
    """On several GPUs a part of each step is communication alone, and FP8 keeps less of its gain.

    What it means: in some of the time of a step no kernel runs but NCCL's. FP8 shortens the products, and not that.
    Waiting for a slower GPU is in that time too.

    Why it costs time: what is sent between GPUs stays as large, unless weights and activations are sent in FP8 as well,
    and shorter products hide less of it.

    What to do: more tokens a GPU, less tensor parallelism, weights gathered in FP8 (torchao's
    enable_fsdp_float8_all_gather), gradients accumulated over several steps.

    Sources: measured here: the same step in BF16 and FP8 on one GPU and on several; communication from the kernels of
    one profiled step on the first GPU. Public cases: NVIDIA/TransformerEngine#556, vllm-project/vllm#7579.
    """
    if (missing := unmeasured(parallel)) is not None:
        return missing
    measured = Measured(parallel)
    alone = observed(measured.single(), FIRST_GPU_ALONE)
    return [
        _communicates(alone, gain)
        for spread in (DATA, SHARDED, TENSOR)
        if (gain := measured.largest(spread)) is not None
    ]


def _communicates(alone: Gain, gain: Gain) -> Verdict:
    if not _is_less(gain, alone):
        return None
    share = exposed_share(gain.fp8)
    if share is None:
        return Unknown(f"the kernels of {where(gain)} were not looked at")
    if share < LEAST:
        return None
    evidence = [gain_line(alone), gain_line(gain)]
    for name, step in (("FP8", gain.fp8), ("BF16", gain.bf16)):
        if step.exposed_ms is not None and step.profiled_ms:
            part = step.exposed_ms / step.profiled_ms
            text = f"{name}: {step.exposed_ms:.2f} of {step.profiled_ms:.2f} ms communicate with nothing beside it"
            evidence.append(Evidence(f"{text} ({part:.0%})", step.exposed_ms, "ms", "parallel.steps"))
    return Finding(
        title=(
            f"{_capital(where(gain))} keeps {gain.factor.median:.2f}x of FP8's {alone.factor.median:.2f}x: "
            f"{share:.0%} of the step is communication alone"
        ),
        evidence=tuple(evidence),
        actions=(
            Action("Work on more tokens a GPU, or accumulate gradients over several steps"),
            Action(
                "Gather weights in FP8, where that is faster", "Float8LinearConfig(enable_fsdp_float8_all_gather=True)"
            )
            if gain.parallelism == SHARDED
            else Action("Spread over fewer GPUs, or shard the data instead (FSDP2)"),
        ),
        about=f"parallel:{gain.parallelism}",
    )


@rule("PAR002", "tp-shards-too-small", Severity.INFO, scope="usage", explains=("fp8-slower-across-gpus",))
def shards(parallel: Parallel) -> Verdict:
    """Tensor parallelism leaves each GPU products that are too small to gain from FP8.

    What it means: each GPU computes a part of the columns or of the rows of a layer. On more GPUs that part is smaller,
    while each still casts activations that are as long: of the step without its communication, FP8's gain shrinks.

    Why it costs time: casting takes time that grows with the sizes of the operands, a product's time with M x K x N.

    What to do: less tensor parallelism and more data parallelism, or more tokens a step; otherwise BF16.

    Sources: measured here, compiled, with torchao's tensor-wise scaling and its classes for tensor parallelism; the
    layout is that of torchtitan's Llama (sequence parallelism between layers). Public cases: pytorch/torchtitan#1207,
    vllm-project/llm-compressor#2069.
    """
    if (missing := unmeasured(parallel)) is not None:
        return missing
    measured = Measured(parallel)
    gain = measured.largest(TENSOR)
    if gain is None:
        return Unknown("no FP8 step was timed beside BF16 with tensor parallelism")
    alone = observed(measured.single(), FIRST_GPU_ALONE)
    if not _is_less(gain, alone):
        return None
    computing = observed(without_waiting(gain), f"the kernels of {where(gain)}")
    if computing > alone.factor.low * (1 - LEAST):
        return None
    numbers = (measured.gain(TENSOR, n) for n in measured.numbers(TENSOR))
    known = f"the step without its communication: {computing:.2f}x"
    return Finding(
        title=(
            f"On {gain.gpus} GPUs tensor parallelism leaves products that gain {computing:.2f}x from FP8, "
            f"on one GPU {alone.factor.median:.2f}x"
        ),
        evidence=(
            gain_line(alone),
            *(gain_line(found) for found in numbers if found is not None),
            Evidence(known, round(computing, 3), "x", "parallel.steps"),
            *_shapes(parallel, gain),
        ),
        actions=(Action(f"Use less tensor parallelism than {gain.gpus} GPUs, or more tokens a step"),),
        about=f"parallel:{TENSOR}",
    )


def _shapes(parallel: Parallel, gain: Gain) -> list[Evidence]:
    """A rank's products, where the model is known."""
    if not parallel.width or not parallel.hidden or not parallel.kv_width or not gain.fp8.tokens:
        return []
    m, n = gain.fp8.tokens, gain.gpus
    products = (
        ("query", parallel.width, parallel.width // n),
        ("key", parallel.width, parallel.kv_width // n),
        ("feed-forward, up", parallel.width, parallel.hidden // n),
        ("feed-forward, down", parallel.hidden // n, parallel.width),
    )
    words = ", ".join(f"{name} {m}x{k}x{columns}" for name, k, columns in products)
    return [Evidence(f"a GPU's products (MxKxN): {words}", None, None, "parallel.steps")]


@rule("PAR003", "amax-reduction-overhead", Severity.INFO, scope="usage", explains=("comm-bound",))
def reduces_scales(parallel: Parallel) -> Verdict:
    """The GPUs exchange the maximum of each weight by itself before weights are gathered in FP8.

    What it means: a weight that is sharded has one scale, so the GPUs agree on its largest value. Without
    `precompute_float8_dynamic_scale_for_fsdp` each weight has an all-reduce of its own in every step.

    Why it costs time: such an all-reduce is a few bytes and costs its latency, and every GPU waits for the slowest.

    What to do: call `precompute_float8_dynamic_scale_for_fsdp(model)` after each optimizer step: one all-reduce for all
    scales.

    Sources: measured here, the same step with and without it. torchao 0.17.0, float8/fsdp_utils.py. Public cases:
    AMD-AGI/Primus#669, NVIDIA/TransformerEngine#431.
    """
    if (missing := unmeasured(parallel)) is not None:
        return missing
    measured = Measured(parallel)
    for gpus in reversed(measured.numbers(SHARDED)):
        each = measured.step(SHARDED, GATHERED_EACH, gpus)
        once = measured.step(SHARDED, GATHERED, gpus)
        if each is None or once is None or each.step_ms is None or once.step_ms is None:
            continue
        factor = speedup(each.step_ms, once.step_ms)
        if factor.low <= 1 or factor.median < 1 + LEAST:
            return None
        return Finding(
            title=f"On {gpus} GPUs, scales exchanged weight by weight make a step {factor.median:.2f}x as long",
            evidence=(
                Evidence(
                    f"an all-reduce for each weight: {each.step_ms.median:.2f} ms",
                    each.step_ms.median,
                    "ms",
                    "parallel.steps",
                ),
                Evidence(
                    f"one for all scales: {once.step_ms.median:.2f} ms", once.step_ms.median, "ms", "parallel.steps"
                ),
            ),
            actions=(
                Action(
                    "After each optimizer step, reduce all scales at once",
                    "precompute_float8_dynamic_scale_for_fsdp(model)",
                ),
            ),
            gain=Gained(factor.median, each.config or GATHERED_EACH, "measured", "FP8 all-gather, scales one by one"),
        )
    return Unknown("weights were not gathered in FP8 in both ways")


@rule("PAR004", "env-var-wrong", Severity.INFO, scope="usage", explains=("comm-bound",))
def connections(parallel: Parallel, machine: Machine) -> Verdict:
    """CUDA_DEVICE_MAX_CONNECTIONS=1 is set, and FSDP wants more.

    What it means: the variable limits the hardware queues of a GPU. One queue makes launches start in the order in
    which they were asked for, which tensor parallelism with overlap relies on; FSDP gathers weights on a stream of its
    own, beside the products.

    Why it costs time: in one queue, gathering the next weights may wait behind the products that should hide it.

    What to do: unset it for FSDP. Where Megatron's tensor or sequence parallelism is in use before Blackwell, 1 is what
    it asks for. It is read when CUDA starts: export it in the launcher.

    Sources: Megatron-LM, megatron/training/arguments.py ("FSDP always requires CUDA_DEVICE_MAX_CONNECTIONS value large
    than one"; 1 for sequence parallelism). A hint: how much it costs here was not measured.
    """
    if (missing := unmeasured(parallel)) is not None:
        return missing
    gain = Measured(parallel).largest(SHARDED)
    if gain is None:
        return NotApplicable("no step was timed with FSDP2")
    environment = observed(machine.environment, "the environment variables")
    if environment.get("CUDA_DEVICE_MAX_CONNECTIONS") != "1":
        return None
    seen = Evidence("CUDA_DEVICE_MAX_CONNECTIONS=1", "1", None, "machine.environment.CUDA_DEVICE_MAX_CONNECTIONS")
    return Finding(
        title="CUDA_DEVICE_MAX_CONNECTIONS is 1, which is for tensor parallelism and too few for FSDP",
        evidence=(seen, gain_line(gain)),
        actions=(Action("Unset it where FSDP is used", "unset CUDA_DEVICE_MAX_CONNECTIONS"),),
    )


@rule("PAR005", "weights-gathered-in-bf16", Severity.INFO, scope="usage", explains=("comm-bound",))
def gathers(parallel: Parallel) -> Verdict:
    """FSDP2 gathers weights in BF16, though the products take them in FP8.

    What it means: each GPU holds a part of every weight and gathers the rest before it is used. torchao casts the parts
    first, where it is asked to, and half as many bytes are sent.

    Why it costs time: what is not hidden behind products is waited for.

    What to do: `Float8LinearConfig(enable_fsdp_float8_all_gather=True)`, and
    `precompute_float8_dynamic_scale_for_fsdp(model)` after each optimizer step. Tensor-wise scaling only.

    Sources: measured here, the same FP8 step with both. torchao 0.17.0, float8/config.py and float8/fsdp_utils.py.
    """
    if (missing := unmeasured(parallel)) is not None:
        return missing
    measured = Measured(parallel)
    for gpus in reversed(measured.numbers(SHARDED)):
        plain, gathered = measured.step(SHARDED, FP8, gpus), measured.step(SHARDED, GATHERED, gpus)
        if plain is None or gathered is None or plain.step_ms is None or gathered.step_ms is None:
            continue
        factor = speedup(plain.step_ms, gathered.step_ms)
        if factor.low <= 1 or factor.median < 1 + LEAST:
            return None
        return Finding(
            title=f"On {gpus} GPUs, FSDP2 that gathers weights in FP8 is {factor.median:.2f}x as fast as in BF16",
            evidence=(
                Evidence(
                    f"FP8, weights gathered in BF16: {plain.step_ms.median:.2f} ms",
                    plain.step_ms.median,
                    "ms",
                    "parallel.steps",
                ),
                Evidence(
                    f"FP8, weights gathered in FP8: {gathered.step_ms.median:.2f} ms",
                    gathered.step_ms.median,
                    "ms",
                    "parallel.steps",
                ),
            ),
            actions=(Action("Gather weights in FP8", "Float8LinearConfig(enable_fsdp_float8_all_gather=True)"),),
            gain=Gained(factor.median, plain.config or FP8, "measured", f"FP8, {WORDS[SHARDED]}"),
        )
    return Unknown("weights were not gathered in both formats")


def _is_less(gain: Gain, alone: Gain) -> bool:
    """Whether a gain is less than on one GPU, beyond the noise of both."""
    ratio = speedup(alone.factor, gain.factor)
    return differs(ratio) and ratio.median > 1 + LEAST


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
