"""`fp8doctor diff`: what changed between two reports."""

from __future__ import annotations

import click


@click.command("diff")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
def command(before: str, after: str) -> int:
    """Say what changed from report A to report B, and which change explains a slow-down."""
    raise NotImplementedError
