"""What a folder holds of an earlier benchmark: an hour of measuring that no later one may lose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fp8doctor.cli.bench import REPORT

if TYPE_CHECKING:
    from fp8doctor.checks.ladder import Ladder
    from fp8doctor.checks.pipeline.facts import PipelineRun
    from fp8doctor.judging.report import Report


@dataclass(frozen=True)
class Earlier:
    """A run with finished rungs, and the folder that `-o` wrote it into."""

    folder: Path
    created: str
    record: Ladder | PipelineRun

    @classmethod
    def of(cls, folder: Path) -> Earlier | None:
        """The run that a folder holds; None if it holds none, or none that finished a rung.

        Raises:
            click.ClickException: if its report cannot be read: what is in it is not known, and may be such a run.
        """
        from fp8doctor import api, store

        report = folder / REPORT
        if not report.is_file() or not report.stat().st_size:
            return None
        try:
            saved = store.read_file(report, api.knowledge())
        except store.NotAFactsFileError as error:
            raise click.ClickException(f"{error}; name another folder.") from None
        for key in ("ladder", "pipeline"):
            run = saved.runs.get(key)
            found = cls(folder, saved.created[:10], run.facts) if run and run.facts else None  # type: ignore[arg-type]
            if found and found.finished:
                return found
        return None

    @property
    def finished(self) -> frozenset[tuple[str | None, str | None]]:
        """The rungs that need not be measured again, by configuration and step."""
        return _finished(self.record)

    @property
    def what(self) -> str:
        """What was measured, in words."""
        workload = getattr(self.record, "workload", None)
        return f"a run of {workload}" if workload else f"images of {getattr(self.record, 'folder', None)}"

    def in_the_way(self, differs: str | None) -> click.ClickException:
        """The complaint of a run that was not told to go on with this one; `differs`: why it could not."""
        on = f" on {_a(self.record.device_name)}" if self.record.device_name else ""
        when = f" ({self.created})" if self.created else ""
        do = "Name another folder." if differs else "Add --resume to go on with it, or name another folder."
        return click.ClickException(f"{self.folder} holds {self.what}{on}{when}. {do}")

    def differs(
        self, workload: str | None, *, full: bool, pipeline: str | None, prompt: str | None, steps: int | None
    ) -> str | None:
        """Why a run of this cannot go on with the earlier one; None if it can."""
        from fp8doctor.checks.ladder import Ladder

        if workload is not None:
            return self._differs_from(workload, full)
        assert pipeline is not None
        asked = f"images of {Path(pipeline).name}"
        if isinstance(self.record, Ladder) or self.what != asked:
            return f"{self.folder} holds {self.what}, not {asked}"
        from fp8doctor.checks.pipeline.probe import digest

        if self.record.prompt_digest != digest(prompt):
            return f"{self.folder} holds images of another --prompt"
        if steps not in (None, self.record.steps):
            return f"{self.folder} holds images in {self.record.steps} steps, not in {steps}"
        return None

    def _differs_from(self, workload: str, full: bool) -> str | None:
        from fp8doctor.checks.ladder import Ladder
        from fp8doctor.checks.workload.catalogue import BUILT_IN
        from fp8doctor.checks.workload.config_file import read_plan

        plan = BUILT_IN.get(workload) or read_plan(workload)
        if not isinstance(self.record, Ladder):
            return f"{self.folder} holds {self.what}, not a run of {plan.name}"
        if self.record.workload != plan.name:
            return f"{self.folder} holds {self.what}, not of {plan.name}"
        model = f"{plan.library}.{plan.class_name}"
        if self.record.model_class not in (None, model):
            return f"{self.folder} holds a run of another {plan.name}: {self.record.model_class}"
        if (self.record.full or False) != full:
            return f"{self.folder} holds {self.what} {'without' if full else 'with'} --full"
        return None

    def gpu_is_gone(self) -> str | None:
        """Why the rungs cannot be gone on with on this machine; None if they can, as far as its driver tells.

        The driver of NVIDIA's GPUs is asked alone. It does not know which of them torch will see, or as what: a part of
        one (MIG) has a longer name. Where it settles nothing the probe itself does.
        """
        name = self.record.device_name
        if not name or not name.startswith("NVIDIA"):
            return None
        here = _gpus_here()
        if here is None or any(name.startswith(one) for one in here):
            return None
        there = f"here is {_a(here[0])}" if here else "here no GPU is visible"
        return f"the run in {self.folder} is of {_a(name)}; {there}"

    def lost(self, report: Report) -> str | None:
        """Why a report that went on from this one cannot take its place; None if all finished rungs are in it."""
        from fp8doctor import store
        from fp8doctor.checks.ladder import Ladder
        from fp8doctor.checks.pipeline.facts import PipelineRun

        cls = Ladder if isinstance(self.record, Ladder) else PipelineRun
        plain = report.facts.get(cls.key)
        record = store.decode_facts(cls, plain) if plain is not None else None
        missing = self.finished - _finished(record) if isinstance(record, (Ladder, PipelineRun)) else self.finished
        if not missing:
            return None
        why_not = getattr(record, "why_not", None)
        return why_not or f"{len(missing)} of the finished rungs are not in the new run"


def _finished(record: Ladder | PipelineRun) -> frozenset[tuple[str | None, str | None]]:
    from fp8doctor.checks.ladder.probe import FINISHED

    done = [rung for rung in record.rungs or () if rung.outcome in FINISHED]
    return frozenset((rung.config, getattr(rung, "step", None)) for rung in done)


def _gpus_here() -> list[str] | None:
    """The names of the GPUs that NVIDIA's driver shows; None if it could not be asked."""
    from fp8doctor import api
    from fp8doctor.checks.gpu import Gpus

    seen = api.look(Gpus)
    if seen is None or seen.gpus is None or any(gpu.name is None for gpu in seen.gpus):
        return None
    return [gpu.name for gpu in seen.gpus if gpu.name]


def _a(name: str | None) -> str:
    name = name or "unknown GPU"
    return f"{'an' if name.startswith(('NV', 'A', 'I', 'u')) else 'a'} {name}"
