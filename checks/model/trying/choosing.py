"""Which linear layers of a block should FP8 take, and why not the others?"""

from __future__ import annotations

from collections.abc import Mapping

from fp8doctor.checks.model.layers import MULTIPLE, gains_nothing
from fp8doctor.checks.model.trying.layer_times import FEWEST_ROWS
from fp8doctor.checks.torch_build.numerics import ERROR_LIMITS
from fp8doctor.observed import LayerError, LayerGain

# Why a layer stays in 16 bits, in words.
REASONS = {
    "uncalled": "not called in a step",
    "rows": f"called with fewer than {FEWEST_ROWS} rows",
    "sizes": f"a size is no multiple of {MULTIPLE}",
    "slower": "the FP8 product is not faster, measured here",
    "inexact": "FP8 is further off than its format explains",
}


def kept_back(
    layers: Mapping[str, tuple[int, int]], rows: Mapping[str, int], gains: Mapping[tuple[int, int, int], LayerGain]
) -> dict[str, str]:
    """The layers that stay in 16 bits, and why ("sizes", "rows", "slower", "uncalled").

    Args:
        layers: name -> (K, N) of a block's linear layers.
        rows: name -> the rows that it was called with.
        gains: (rows, K, N) -> what FP8 gives, where it was timed.
    """
    found: dict[str, str] = {}
    for name, (k, n) in layers.items():
        gain = gains.get((rows.get(name, 0), k, n))
        if name not in rows:
            found[name] = "uncalled"
        elif k % MULTIPLE or n % MULTIPLE:
            found[name] = "sizes"
        elif rows[name] < FEWEST_ROWS:
            found[name] = "rows"
        elif gain is not None and gains_nothing(gain):
            found[name] = "slower"
    return found


def is_inexact(error: LayerError) -> bool:
    """Whether a layer loses more than its format explains, twice over (the limit that every probe here has)."""
    if error.sqnr_db is None:
        return False
    return float(10 ** (-error.sqnr_db / 20)) > ERROR_LIMITS["e4m3"]
