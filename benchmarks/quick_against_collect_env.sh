#!/usr/bin/env bash
# How long does `fp8doctor --quick` take, beside `python -m torch.utils.collect_env`? Seven runs each, in turn.
#     benchmarks/quick_against_collect_env.sh [PYTHON]
set -euo pipefail
python=${1:-python3}
seconds() { local began=$EPOCHREALTIME; "$@" >/dev/null 2>&1 || true; echo "$began $EPOCHREALTIME" | awk '{printf "%.2f\n", $2 - $1}'; }
ours=() theirs=()
for _ in 1 2 3 4 5 6 7; do
    theirs+=("$(seconds "$python" -m torch.utils.collect_env)")
    ours+=("$(seconds "$python" -m fp8doctor --quick)")
done
middle() { printf '%s\n' "$@" | sort -n | sed -n 4p; }
echo "collect_env: ${theirs[*]} s, median $(middle "${theirs[@]}")"
echo "fp8doctor --quick: ${ours[*]} s, median $(middle "${ours[@]}")"
awk -v a="$(middle "${ours[@]}")" -v b="$(middle "${theirs[@]}")" 'BEGIN { printf "ratio of medians: %.2f\n", a / b }'
