"""How time is measured: two clocks for every case, its spread, and the kernels that ran."""
