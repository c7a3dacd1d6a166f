"""What is said of a torch that does not import, or does not start on the GPU?"""

from __future__ import annotations

from fp8doctor.checks.torch_build.facts import TorchBuild
from fp8doctor.model import Action, Evidence, Finding, ProbeRun, Severity

REINSTALL = "python -m pip install --force-reinstall torch"
# Importing torch takes seconds, and more than ten from a cold network disk: a look that is shorter proves nothing.
ENOUGH_S = 30.0
# How a child's end is told that was silent for too long (fp8doctor.probing.process.NO_ANSWER).
SILENT = "no answer"


def import_fails(build: TorchBuild, error: str) -> Finding:
    """What is said of an import that raised, or ended the process."""
    theirs = build.from_python_path or ()
    seen = [Evidence(f"import torch: {error}", error, fact="torch_build.import_error")]
    seen += [Evidence(f"PYTHONPATH brings {file}", file, fact="torch_build.from_python_path") for file in theirs]
    if theirs:
        say = f"Take the folder of {theirs[-1]} out of PYTHONPATH, or rename that file. See whether torch imports then."
        action = Action(say, 'env -u PYTHONPATH python -c "import torch; print(torch.__file__)"')
    else:
        action = Action("Reinstall torch and what it depends on, best in a fresh environment.", REINSTALL)
    return Finding("import torch fails", tuple(seen), (action,))


def not_ended(run: ProbeRun[TorchBuild], ended: str) -> Finding:
    """What is said of an import that was still going on when its time was over."""
    return Finding(
        title="import torch did not end in the time that it had",
        evidence=(Evidence(f"import torch: {ended}", run.elapsed_ms, "ms"),),
        actions=(
            Action("See which module it stands in, and for how long.", 'python -X importtime -c "import torch"'),
            Action("Where it is only slow, give the doctor more time.", "fp8doctor --budget 180"),
        ),
        severity=Severity.ERROR if (run.elapsed_ms or 0) >= 1000 * ENOUGH_S else Severity.WARNING,
    )


def cannot_start(title: str, error: str, fact: str) -> Finding:
    """What is said of a torch that the GPU does not serve."""
    return Finding(
        title=title,
        evidence=(Evidence(f"torch: {error}", error, fact=fact),),
        actions=(
            Action(
                "See what torch says outside the doctor; then compare the driver with torch's CUDA, and look at"
                " CUDA_VISIBLE_DEVICES.",
                'python -c "import torch; torch.cuda.init(); print(torch.ones(1, device=0) + 1)"',
            ),
        ),
    )


def has_no_code(build: TorchBuild) -> bool:
    """Whether an addition on the GPU failed as this build has no code for it."""
    return "no kernel image" in (build.trivial_kernel_error or "")
