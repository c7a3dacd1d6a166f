"""Scripts that make the figures of RESULTS.md."""
