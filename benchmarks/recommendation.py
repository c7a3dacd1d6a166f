"""Is what `fp8doctor --for NAME` recommends the fastest rung of `fp8doctor bench NAME`, and as fast as it said?

python -m benchmarks.recommendation FOR.json BENCH.json [FOR.json BENCH.json ...]

Each pair is the JSON of a run with --for and the report of a benchmark of the same workload on the same box. Prints a
row a step; exits 1 if the recommended configuration is more than 5 % slower than the fastest rung that computes every
step and whose error passes, or if its speed-up over BF16 is more than 10 % off the benchmark's.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fp8doctor import store
from fp8doctor.api import diagnose, knowledge
from fp8doctor.checks.ladder import Ladder
from fp8doctor.checks.ladder.advice import step_title
from fp8doctor.checks.ladder.estimates import estimates
from fp8doctor.checks.ladder.parts import layer_times
from fp8doctor.checks.ladder.winners import baseline, fastest, ok
from fp8doctor.checks.linear.facts import Linear
from fp8doctor.checks.training import Training
from fp8doctor.checks.workload import WorkloadSeen

CLOSE, SPEEDUP_OFF = 0.05, 0.10


def facts_of(path: Path) -> dict[str, object]:
    """The facts of a saved report, by key."""
    return {key: run.facts for key, run in store.read_file(path, knowledge()).runs.items()}


def predicted_ms(facts: dict[str, object], step: str, config: str) -> tuple[float, str] | None:
    """What the short run says a configuration takes: measured as a whole step, or estimated from its layers."""
    ladder = facts["ladder"]
    assert isinstance(ladder, Ladder)
    for rung in ok(ladder, step):
        if rung.config == config and rung.step_ms:
            return rung.step_ms.median, "measured"
    return next(((ms, "estimated") for found, ms in estimated(facts, step) if found == config), None)


def estimated(facts: dict[str, object], step: str) -> list[tuple[str, float]]:
    """All configurations that the short run estimates for a step, with milliseconds."""
    ladder, seen, linear, training = (facts.get(key) for key in ("ladder", "workload", "linear", "training"))
    assert isinstance(ladder, Ladder)
    assert isinstance(seen, WorkloadSeen)
    found = []
    for part in (seen.workload.steps if seen.workload else None) or ():
        if part.name == step:
            time = layer_times(
                part,
                linear if isinstance(linear, Linear) else None,
                training if isinstance(training, Training) else None,
            )
            found += [(item.config, item.ms) for item in estimates(ladder, part, time)]
    return found


def compare(short: Path, long: Path) -> bool:
    """Print one row a step; whether both limits hold everywhere."""
    facts, bench = facts_of(short), facts_of(long)["ladder"]
    assert isinstance(bench, Ladder)
    own = facts["ladder"]
    assert isinstance(own, Ladder)
    advice = {use.when.text: use for use in diagnose(short).use if use.when.workload == bench.workload}
    held = True
    for step in bench.tokens or {}:
        use = advice.get(step_title(bench.workload, step))
        best, bf16, bf16_short = fastest(bench, step), baseline(bench, step), baseline(own, step)
        if use is None or best is None or bf16 is None or bf16_short is None:
            print(f"| {bench.workload} {step} | nothing recommended | | | | | miss |")
            held = False
            continue
        rung = next((r for r in ok(bench, step) if r.config == use.config), None)
        said = predicted_ms(facts, step, use.config)
        assert best.step_ms
        assert bf16.step_ms
        assert bf16_short.step_ms
        if rung is None or rung.step_ms is None or said is None:
            print(f"| {bench.workload} {step} | {use.config} | not a rung | {best.config} | | | miss |")
            held = False
            continue
        behind = rung.step_ms.median / best.step_ms.median - 1
        told = bf16_short.step_ms.median / said[0]
        true = bf16.step_ms.median / rung.step_ms.median
        good = behind <= CLOSE and abs(told / true - 1) <= SPEEDUP_OFF
        held &= good
        print(
            f"| {bench.workload} {step} | {use.config} | {rung.step_ms.median:.2f} | {best.config} "
            f"{best.step_ms.median:.2f} | {behind:+.1%} | {told:.2f}x {said[1]}, {true:.2f}x | "
            f"{'held' if good else 'miss'} |"
        )
        for config, ms in estimated(facts, step):
            measured = next((r.step_ms for r in ok(bench, step) if r.config == config), None)
            if measured:
                off = ms / measured.median - 1
                print(f"    {config}: estimated {ms:.2f} ms, measured {measured.median:.2f}, {off:+.1%}")
    return held


def main(paths: list[str]) -> int:
    """Compare each pair."""
    if not paths or len(paths) % 2:
        print(__doc__)
        return 2
    print("| step | recommended | ms | fastest rung, ms | behind it | speed-up said, measured | |")
    print("|---|---|---|---|---|---|---|")
    held = [compare(Path(a), Path(b)) for a, b in zip(paths[::2], paths[1::2], strict=True)]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
