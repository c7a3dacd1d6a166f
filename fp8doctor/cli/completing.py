"""What may the word under the cursor become, when a person presses the Tab key?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

    Items = list[CompletionItem[Any]]


def _items(texts: Iterable[tuple[str, str | None]], begun: str) -> Items:
    from click.shell_completion import CompletionItem

    return [CompletionItem(text, help=help) for text, help in texts if text.lower().startswith(begun.lower())]


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Any file; which there are is the shell's business."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Any folder."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]


def rules(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """The rules' ids and names, with what they are about."""
    from fp8doctor import api

    known = sorted(api.knowledge().rules.values(), key=lambda rule: rule.id)
    ids = [(rule.id, rule.title) for rule in known]
    return _items([*ids, *{rule.name: rule.title for rule in known}.items()], incomplete)


def rules_of_a_list(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """As `rules`, and the letters that ids begin with; after a comma the next of the list."""
    from fp8doctor import api

    before, comma, begun = incomplete.rpartition(",")
    letters = sorted({id.rstrip("0123456789") for id in api.knowledge().rules})
    items = [*_items([(one, f"all {one}...") for one in letters], begun), *rules(ctx, param, begun)]
    for item in items:
        item.value = f"{before}{comma}{item.value}"
    return items


def boxes(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """The recorded boxes."""
    from fp8doctor.cli.demo import names

    return _items([(name, None) for name in names()], incomplete)


def boxes_and_files(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """The recorded boxes, or any file."""
    # What is left to the shell comes first: in bash it empties the list.
    return [*files(ctx, param, incomplete), *boxes(ctx, param, incomplete)]


def workloads(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """The built-in workloads, or any file: the config.json of a model."""
    from fp8doctor.measuring.workloads import names

    return [*files(ctx, param, incomplete), *_items([(name, None) for name in names()], incomplete)]


def rungs(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """The configurations that every workload is tried in."""
    from fp8doctor.checks.ladder.slugs import FORWARD, TRAINING

    return _items([(slug, None) for slug in dict.fromkeys((*FORWARD, *TRAINING))], incomplete)
