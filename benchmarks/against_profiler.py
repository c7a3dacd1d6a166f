"""Do the doctor's device times agree with the profiler's kernel durations, for its three largest shapes?

    python -m benchmarks.against_profiler

The profiler (CUPTI) times each kernel by itself. A call of several kernels also has the gaps between them, so products
alone, which are one kernel each, are what must agree to 3 %; whole layers are shown for comparison.
"""

from __future__ import annotations

import sys
from functools import partial
from statistics import median

import torch

from fp8doctor.checks.linear import ceilings
from fp8doctor.checks.linear.variants import gemms, variants
from fp8doctor.measuring.kernels import profile_calls
from fp8doctor.measuring.statistics import estimate
from fp8doctor.measuring.timer import Timer
from fp8doctor.measuring.workloads import DEFAULT_LAYERS, DEFAULT_TOKENS

LIMIT = 0.03
CALLS = 21


def main() -> int:
    device = torch.device("cuda", 0)
    timer = Timer(torch, device)
    timer.warm(ceilings.product(torch, device, "bf16", (4096, 4096, 4096)), 2.0)
    timer.calibrate()
    sizes = sorted(((m, k, n) for k, n in DEFAULT_LAYERS for m in DEFAULT_TOKENS), key=lambda s: -s[0] * s[1] * s[2])
    failed = False
    for m, k, n in sizes[:3]:
        x = torch.randn(m, k, device=device, dtype=torch.bfloat16)
        weight = torch.randn(n, k, device=device, dtype=torch.bfloat16) / k**0.5
        calls = {f"{config} (product alone)": build() for config, build in gemms(torch, x, weight).items()}
        for variant in variants():
            if variant.config in ("torch-bf16", "torch-fp8-rowwise", "torch-fp8-rowwise+compile"):
                layer = variant.build(torch, weight)
                layer = torch.compile(layer) if variant.compiled else layer
                calls[variant.config] = partial(layer, x)
        with torch.no_grad():
            for name, call in calls.items():
                for _ in range(5):
                    call()
                ours = estimate(timer.device_samples(call, CALLS, timer.pace(call)))
                ran = profile_calls(torch, device, [call] * CALLS, timer.flush)
                if ran is None:
                    print("the profiler traces no kernels here")
                    return 2
                theirs = median(sum(us for _, us in kernels) for kernels in ran)
                off = ours.median / theirs - 1
                alone = "alone" in name
                failed |= alone and abs(off) > LIMIT
                print(f"{m}x{k}x{n} {name}: {ours.median:.1f} us, profiler {theirs:.1f} us, {off:+.1%}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
