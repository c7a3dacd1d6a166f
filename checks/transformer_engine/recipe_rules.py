"""Do the recipes of Transformer Engine run here, and are they right?"""

from __future__ import annotations

from fp8doctor.checks.transformer_engine.facts import ABOUT, ABSENT, Recipe, TransformerEngine
from fp8doctor.checks.transformer_engine.texts import REINSTALL
from fp8doctor.model import Action, Evidence, Finding, NotApplicable, NotObservedError, Severity, observed
from fp8doctor.registry import rule


def _recipes(te: TransformerEngine) -> tuple[Recipe, ...]:
    """The recipes, if anybody could ask for them."""
    return observed(te.recipes, "what Transformer Engine says of its recipes on a GPU")


def _tried(te: TransformerEngine) -> list[Recipe]:
    """The recipes of which a forward was tried."""
    tried = [recipe for recipe in _recipes(te) if recipe.forward_ok is not None]
    perhaps = [recipe for recipe in _recipes(te) if recipe.available is not False]
    if perhaps and not tried:
        raise NotObservedError("no recipe of Transformer Engine was called")
    return tried


@rule("TE007", "recipe-not-on-arch", Severity.ERROR, scope="usage")
def recipe_not_on_arch(te: TransformerEngine) -> Finding | NotApplicable | None:
    """Transformer Engine does not allow every FP8 recipe on this GPU.

    What it means: each scaling recipe needs its own hardware. Per-tensor scaling (DelayedScaling, Float8CurrentScaling)
    runs from compute capability 8.9 up, Float8BlockScaling from 9.0 with CUDA 12.9, MXFP8 on 10.x and NVFP4 from 10.0.
    The evidence is Transformer Engine's own answer on this box. A lesson, not a fault.

    Why it costs time: asking for a recipe that is refused stops the program.

    What to do: take one that is allowed.

    Sources: transformer_engine/pytorch/quantization.py 2.20.2; NVIDIA/TransformerEngine#1939, #2073, #2157.
    """
    if te.installed is False:
        return ABSENT
    allowed = [str(recipe.name) for recipe in _recipes(te) if recipe.available]
    refused = [recipe for recipe in _recipes(te) if recipe.available is False]
    if not refused:
        return None
    if not allowed:
        return NotApplicable(f"Transformer Engine allows no FP8 recipe here: {refused[0].reason or 'no reason given'}")
    return Finding(
        title=f"Transformer Engine has no {_listed([str(recipe.name) for recipe in refused])} on this box",
        evidence=tuple(
            Evidence(f"{recipe.name}: {recipe.reason or 'not available'}", fact="transformer_engine.recipes")
            for recipe in refused
        ),
        actions=(Action(f"Take one that it allows here: {', '.join(allowed)}"),),
        about=ABOUT,
        severity=Severity.INFO,
    )


def _listed(names: list[str]) -> str:
    return " and no ".join(filter(None, (", no ".join(names[:-1]), names[-1])))


@rule("TE008", "silent-wrong-result", Severity.ERROR, scope="box")
def wrong_result(te: TransformerEngine) -> list[Finding | None] | NotApplicable:
    """A linear layer of Transformer Engine gives a wrong result.

    What it means: a forward on random normal operands was compared with the exact product of the same operands. Its
    error is more than twice what rounding to the format costs by itself, or the result is not finite.

    Why it costs time: a fast wrong result is worth nothing; training on it diverges.

    What to do: use another recipe, and report the case to NVIDIA/TransformerEngine with this evidence.

    Sources: FORMAT_ERRORS in checks/torch_build/numerics.py; huggingface/transformers#47030 for such a case.
    """
    if te.installed is False:
        return ABSENT
    return [_judge_error(recipe) for recipe in _tried(te)] or NotApplicable("no recipe is allowed here")


def _judge_error(recipe: Recipe) -> Finding | None:
    if not recipe.forward_ok:
        return None
    if recipe.finite is False:
        seen = Evidence(f"{recipe.name}: the result is not finite", fact="transformer_engine.recipes")
    else:
        limit = observed(recipe.relative_error_limit, "the error that the format explains")
        error = observed(recipe.relative_error, f"the error of {recipe.name}")
        if error <= limit:
            return None
        text = f"{recipe.name}: relative error {error:.3g}, where the format explains {limit:.3g} at most"
        seen = Evidence(text, value=error, fact="transformer_engine.recipes")
    return Finding(
        title=f"te.Linear under {recipe.name} gives a wrong result",
        evidence=(seen,),
        actions=(Action("Use another recipe, and report this to https://github.com/NVIDIA/TransformerEngine/issues"),),
        about=ABOUT,
    )


@rule("TE009", "te-recipe-fails", Severity.ERROR, scope="box")
def recipe_fails(te: TransformerEngine) -> list[Finding | None] | NotApplicable:
    """A recipe that Transformer Engine says is available does not run.

    What it means: Transformer Engine judges by compute capability and versions. Here one forward of a small linear
    layer with legal shapes was called, and it raised an error or ended the process.

    Why it costs time: the recipe cannot be used on this box.

    What to do: use a recipe that ran; the error says what is missing, often an architecture that the extension was not
    built for (NVTE_CUDA_ARCHS) or mixed CUDA libraries.

    Sources: the call itself; transformer_engine/pytorch/quantization.py 2.20.2.
    """
    if te.installed is False:
        return ABSENT
    tried = _tried(te)
    ran = [str(recipe.name) for recipe in tried if recipe.forward_ok]
    advice = f"Use a recipe that ran: {', '.join(ran)}" if ran else "Install it again, built for this GPU and torch"
    verdicts: list[Finding | None] = [
        Finding(
            title=f"te.Linear under {recipe.name} does not run",
            evidence=(Evidence(f"{recipe.name}: {recipe.error}", fact="transformer_engine.recipes"),),
            actions=(Action(advice, None if ran else REINSTALL),),
            about=ABOUT,
        )
        if recipe.forward_ok is False
        else None
        for recipe in tried
    ]
    return verdicts or NotApplicable("no recipe is allowed here")


@rule("TE010", "fp8-silently-not-applied", Severity.ERROR, scope="box")
def not_applied(te: TransformerEngine) -> list[Finding | None] | NotApplicable:
    """A recipe was accepted, and the layer did not compute in FP8.

    What it means: the result is closer to the exact product than rounding both operands to the format allows, so they
    were not rounded: the layer ran in BF16.

    Why it costs time: the program believes in a speed-up that it does not get.

    What to do: see which Transformer Engine is really imported, and whether something replaced its autocast.

    Sources: FORMAT_ERRORS in checks/torch_build/numerics.py.
    """
    if te.installed is False:
        return ABSENT
    return [_judge_rounding(recipe) for recipe in _tried(te)] or NotApplicable("no recipe is allowed here")


def _judge_rounding(recipe: Recipe) -> Finding | None:
    if not recipe.forward_ok or recipe.finite is False:
        return None
    expected = observed(recipe.relative_error_expected, "the error of the format")
    error = observed(recipe.relative_error, f"the error of {recipe.name}")
    if error > expected / 2:
        return None
    text = f"{recipe.name}: relative error {error:.3g}; rounding both operands to its format costs {expected:.3g}"
    return Finding(
        title=f"te.Linear under {recipe.name} did not compute in FP8",
        evidence=(Evidence(text, value=error, fact="transformer_engine.recipes"),),
        actions=(
            Action("Look which one is imported", "python -c 'import transformer_engine as t; print(t.__file__)'"),
        ),
        about=ABOUT,
    )


@rule("TE011", "cuda-toolkit-too-old-for-ada-fp8", Severity.ERROR, scope="box")
def cuda_too_old_for_ada(te: TransformerEngine) -> Finding | NotApplicable | None:
    """CUDA is too old for FP8 on Ada.

    What it means: GPUs of compute capability 8.9 have FP8 tensor cores, and cuBLASLt uses them from CUDA 12.1 update 1
    on. Transformer Engine refuses FP8 with an older one.

    Why it costs time: all FP8 recipes are refused on a GPU that could run them.

    What to do: install a build of torch for CUDA 12.4 or newer.

    Sources: _compute_fp8_support in transformer_engine/pytorch/quantization.py 2.20.2; NVIDIA/TransformerEngine#15,
    #129.
    """
    if te.installed is False:
        return ABSENT
    reasons = [recipe.reason for recipe in _recipes(te) if recipe.reason and "execution on Ada" in recipe.reason]
    if not reasons:
        return None
    return Finding(
        title="CUDA is too old for FP8 on this Ada GPU",
        evidence=(Evidence(f"Transformer Engine: {reasons[0]}", fact="transformer_engine.recipes"),),
        actions=(
            Action(
                "Install torch for a newer CUDA",
                "python -m pip install -U torch --index-url https://download.pytorch.org/whl/cu128",
            ),
        ),
        about=ABOUT,
    )


@rule("TE014", "te-delayed-scaling-compiled", Severity.ERROR, scope="usage")
def delayed_scaling_compiled() -> NotApplicable:
    """DelayedScaling was used inside torch.compile.

    What it means: Transformer Engine refuses this recipe in a compiled function, because its scales are state that is
    carried from call to call.

    Why it costs time: the program stops.

    What to do: take Float8CurrentScaling, and make the recipe object outside the compiled function.

    Sources: check_recipe_support in transformer_engine/pytorch/quantization.py 2.20.2.
    """
    return NotApplicable("it depends on the program; its error message shows it")
