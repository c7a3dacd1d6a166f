"""Which fields has a part of the report, and of which type? In words, from the schema."""

from __future__ import annotations

import json
from typing import Any

from tests.docs.snippets import ROOT

SCHEMA: dict[str, Any] = json.loads((ROOT / "fp8doctor" / "schema" / "report-1.0.json").read_text(encoding="utf-8"))


def fields(part: str) -> dict[str, str]:
    """The fields of a part, by its name in the schema; of the report itself if there is none of that name."""
    schema = SCHEMA["$defs"].get(part, SCHEMA)
    return {name: words(of) for name, of in schema["properties"].items()}


def words(schema: dict[str, Any]) -> str:
    """A type: "string or null", "list of Action", "`error`, `info`, `warning`"."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        found = SCHEMA["$defs"][name]
        return words(found) if "enum" in found else name.removesuffix("Record")
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(words(one) for one in schema["anyOf"])
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return " or ".join(f"list of {_of_items(schema)}" if kind == "array" else kind for kind in kinds)


def _of_items(schema: dict[str, Any]) -> str:
    items = schema["items"]
    return "kinds, see below" if "oneOf" in items else words(items)
