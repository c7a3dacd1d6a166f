#!/usr/bin/env bash
# What does the command cost before any examination, and how long does judging take in a running process?
#     benchmarks/startup.sh ENVIRONMENT      (an environment with fp8doctor installed, not in editable mode)
# Wants hyperfine and a quiet machine; the bare interpreter shows how quiet it is.
set -euo pipefail
unset PYTHONDONTWRITEBYTECODE
environment=$(realpath "${1:?an environment with fp8doctor installed}")
facts=$(realpath "$(dirname "$0")/../tests/boxes/h200.json")
cd /  # so that the installed package is measured, and not the checkout
uptime
hyperfine -N --warmup 3 --runs 30 --ignore-failure --style basic \
    "$environment/bin/python -c pass" \
    "$environment/bin/fp8doctor --version" \
    "$environment/bin/fp8doctor --help" \
    "$environment/bin/fp8doctor diagnose $facts"
"$environment/bin/python" - "$facts" <<'PYTHON'
import statistics
import sys
import time
from pathlib import Path

from fp8doctor import api, store
from fp8doctor.judging.judge import judge

registry = api.knowledge()
saved = store.read_file(Path(sys.argv[1]), registry)
taken_ms = []
for _ in range(50):
    began = time.perf_counter()
    judge(registry, saved.runs)
    taken_ms.append((time.perf_counter() - began) * 1e3)
print(f"judging in process: median {statistics.median(taken_ms):.1f} ms of 50, least {min(taken_ms):.1f} ms")
PYTHON
