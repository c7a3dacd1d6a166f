"""What does the text itself say that a GPU lacks, or expect of it? For issues that people paste as a whole."""

from fp8doctor.checks.claims.facts import Claims, Figure, Limit, Said

__all__ = ["Claims", "Figure", "Limit", "Said"]
