"""Generated files are those that `python -m tests.refresh` writes; look at the diff before you commit it."""

from __future__ import annotations

from tests import refresh


def test_generated_files_are_fresh() -> None:
    stale = [str(path.relative_to(refresh.ROOT)) for path, _ in refresh.stale()]
    assert not stale, f"run `python -m tests.refresh`; stale: {', '.join(stale)}"
