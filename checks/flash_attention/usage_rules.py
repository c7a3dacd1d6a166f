"""Which FlashAttention is asked for what it does not do: another GPU, another name, FP8?"""

from __future__ import annotations

from fp8doctor.checks.flash_attention.facts import FlashAttention, Generation
from fp8doctor.checks.flash_attention.faults import about, fault, judge_installed, name_of, said, unless_ran
from fp8doctor.checks.gpu import capability
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, RuleResult, Severity, Unknown, Verdict, observed
from fp8doctor.registry import rule


@rule("FA002", "fa3-hopper-only", Severity.WARNING, scope="usage")
def flash_attention_3_elsewhere(flash: FlashAttention) -> RuleResult:
    """FlashAttention 3 is installed on a GPU that is no Hopper.

    What it means: its fast kernels are written for compute capability 9.0. It holds kernels for Ampere and Ada, too,
    which a build may have left out; torch and Transformer Engine use the package on 9.0 alone.

    Why it costs time: at best it runs its older kernels; at worst the call fails.

    What to do: nothing need be installed in its place: torch's scaled_dot_product_attention picks a kernel that this
    GPU has. On Blackwell, FlashAttention 4 is the generation that was written for it.

    Sources: Dao-AILab/flash-attention#1121; hopper/flash_api.cpp and its sm80 kernels; torch/nn/attention/_fa3.py;
    get_attention_backend in Transformer Engine's dot_product_attention/utils.py.
    """
    item = _third(flash)
    if item is None:
        return NotApplicable("FlashAttention 3 is not installed")
    found = capability(observed(flash.compute_capability, "the GPU's compute capability"))
    if found == (9, 0):
        return None
    ran = item.outcome == "ok"
    happened = Evidence("its BF16 call ran here, by kernels for older GPUs") if ran else said(item)
    return Finding(
        title=f"FlashAttention 3 is for Hopper; this GPU is sm_{flash.compute_capability}".replace(".", ""),
        evidence=(happened,) if item.outcome is not None else (),
        actions=(Action("Use torch.nn.functional.scaled_dot_product_attention: it picks a kernel of this GPU."),),
        about=about(item),
        severity=Severity.INFO if ran or item.outcome is None else None,
    )


def _third(flash: FlashAttention) -> Generation | None:
    observed(flash.generations, "FlashAttention")
    item = flash.generation(3)
    return item if item is not None and item.installed else None


@rule("FA003", "fa3-module-name", Severity.INFO, scope="usage")
def flash_attention_3_name(flash: FlashAttention) -> RuleResult:
    """FlashAttention 3 goes by another module name than the code that looks for it.

    What it means: it is imported as flash_attn_interface. The name flash_attn belongs to FlashAttention 2, and the
    package flash_attn_3 holds the extension and, in some releases, a second way to the same functions.

    Why it costs time: code that asks for another name finds nothing and takes a slower attention, or stops.

    What to do: import flash_attn_interface. torch's switch asks for that name, too.

    Sources: Dao-AILab/flash-attention#1097 and #1112; hopper/setup.py (py_modules); torch/nn/attention/_fa3.py.
    """
    item = _third(flash)
    if item is None:
        return NotApplicable("FlashAttention 3 is not installed")
    modules = observed(item.modules, "FlashAttention 3's module names")
    if not modules:
        return NotApplicable("FlashAttention 3 has metadata and no code")
    listed = Evidence(f"found under: {', '.join(modules)}", fact="flash_attention.generations")
    if "flash_attn_interface" not in modules:
        return Finding(
            title="FlashAttention 3 is not found as flash_attn_interface, the name that torch's switch asks for",
            evidence=(listed,),
            actions=(Action("Import it by the name that is there.", f"from {modules[0]} import flash_attn_func"),),
            about=about(item),
        )
    if flash.flash_attn_name == "absent":
        return Finding(
            title="FlashAttention 3 is here as flash_attn_interface; `import flash_attn` finds nothing",
            evidence=(listed,),
            actions=(Action("Import it by its own name.", "from flash_attn_interface import flash_attn_func"),),
            about=about(item),
        )
    return None


@rule("FA007", "flash-attention-refuses", Severity.WARNING, scope="usage")
def refuses(flash: FlashAttention) -> RuleResult:
    """FlashAttention refuses this call, GPU, data type or CUDA.

    What it means: the package is sound and says that it does not do this: a GPU before Ampere, a head dimension above
    its limit, a feature that its build left out.

    Why it costs time: the call fails, or its author goes on with a slower attention.

    What to do: torch's scaled_dot_product_attention takes what FlashAttention does not, by another backend.

    Sources: the checks in csrc/flash_attn/flash_api.cpp, hopper/flash_api.cpp and flash_attn/cute/interface.py of
    Dao-AILab/flash-attention.
    """

    def judge(item: Generation) -> Verdict:
        if fault(item, flash) != "refused":
            return unless_ran(item)
        return Finding(
            title=f"{name_of(item)} refuses a plain BF16 call on this GPU",
            evidence=(said(item),),
            actions=(Action("Use torch.nn.functional.scaled_dot_product_attention."),),
            about=about(item),
        )

    return judge_installed(flash, judge)


@rule("FA008", "fp8-attention-unavailable", Severity.WARNING, scope="usage")
def no_fp8(flash: FlashAttention) -> RuleResult:
    """The FlashAttention packages here have no FP8 attention for this GPU.

    What it means: the generations take FP8 on different GPUs: 2 never does, 3 does forward on Hopper (unless its build
    left FP8 out), 4 did forward on compute capability 10.x alone as of 4.0.0b36. Each that is installed ran BF16 here
    and did not take e4m3.

    Why it costs time: attention stays in BF16 while the linear layers go to FP8. How much that leaves on the table is
    small on Hopper: 7 to 10 % by cuDNN's FP8 attention on an H200.

    What to do: stay with BF16 attention. Of FP8 attention elsewhere (cuDNN through Transformer Engine), its own rules
    tell.

    Sources: the checks on data types in csrc/flash_attn/flash_api.cpp, hopper/flash_api.cpp and
    flash_attn/cute/interface.py; the gain was measured on an H200 (benchmarks/RESULTS.md).
    """
    here = [item for item in observed(flash.generations, "FlashAttention") if item.installed]
    called = [item for item in here if item.fp8_outcome is not None]
    if any(item.fp8_outcome in ("ok", "wrong") for item in called):
        return None
    if any(item.outcome is None for item in here):
        return Unknown("not every FlashAttention package that is here was called")
    if not called:
        return NotApplicable("no FlashAttention package runs here")
    return Finding(
        title="The FlashAttention packages here take no FP8 on this GPU",
        evidence=tuple(Evidence(f"{name_of(item)}: {item.fp8_error or item.fp8_outcome}") for item in called),
        actions=(Action("Keep attention in BF16; FP8 in the linear layers does not depend on it."),),
        severity=Severity.INFO,
    )
