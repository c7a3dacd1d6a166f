"""What does FP8 keep of its gain on the GPUs of this box, measured without the rest of a fleet's run?

Run it on the box, in the environment to examine, from the root of the repository:

    python -m benchmarks.several_gpus --seconds 60 --json parallel.json

Each case is printed as it is begun, then every figure, and what the rules say of them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from fp8doctor.checks.machine.facts import Machine
from fp8doctor.checks.parallel import probe, rules
from fp8doctor.checks.parallel.facts import Parallel
from fp8doctor.checks.parallel.plan import Sizes
from fp8doctor.model import Finding, Request
from fp8doctor.plain import to_plain
from fp8doctor.variables import kept


def main() -> None:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=probe.MOST_S)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    measured = measure(arguments.seconds)
    if arguments.json:
        arguments.json.write_text(json.dumps(to_plain(measured), indent=1), encoding="utf-8")
    for found in (*(measured.collectives or ()), *(measured.steps or ())):
        print({name: value for name, value in to_plain(found).items() if value is not None})
    for words in measured.not_measured or ():
        print("not measured:", words)
    judge(measured)


def measure(seconds: float) -> Parallel:
    """Everything that fits into so many seconds."""
    import torch

    names = tuple(torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count()))
    if len(names) < 2:
        raise SystemExit("this wants two GPUs")
    request = Request(mode="fleet", seconds_left=seconds, epoch_s=time.monotonic())
    last = Parallel()
    for last in probe.Run(request, names, Sizes(), most_s=seconds).records():
        print(f"{last.took_s:7.2f} s  {last.attempting or 'done'}", flush=True)
    return last


def judge(measured: Parallel) -> None:
    """What each rule says."""
    machine = Machine(environment=kept(os.environ))
    said = [rules.communicates(measured), rules.shards(measured), rules.reduces_scales(measured)]
    said += [rules.gathers(measured), rules.connections(measured, machine)]
    for verdict in said:
        for one in verdict if isinstance(verdict, list) else [verdict]:
            print(one.title if isinstance(one, Finding) else one)


if __name__ == "__main__":
    main()
