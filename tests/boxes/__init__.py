"""Facts recorded on real machines by `fp8doctor collect`; the demo shows them, and every change replays them."""
