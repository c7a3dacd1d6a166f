"""The issue form is one that GitHub takes, and asks for what a report needs.

Rules: GitHub Docs, "Syntax for issue forms" and "Syntax for GitHub's form schema".
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from fp8doctor import read
from tests.docs.snippets import ROOT

FOLDER = ROOT / ".github" / "ISSUE_TEMPLATE"
# What each type of field must have, and may have besides.
ATTRIBUTES: dict[str, tuple[set[str], set[str]]] = {
    "markdown": ({"value"}, set()),
    "textarea": ({"label"}, {"description", "placeholder", "value", "render"}),
    "input": ({"label"}, {"description", "placeholder", "value"}),
    "dropdown": ({"label", "options"}, {"description", "multiple", "default"}),
    "checkboxes": ({"label", "options"}, {"description"}),
}


@pytest.fixture(scope="module")
def form() -> dict[str, Any]:
    loaded: dict[str, Any] = pytest.importorskip("yaml").safe_load((FOLDER / "fp8-report.yml").read_text("utf-8"))
    return loaded


def test_the_form_has_the_keys_that_github_requires(form: dict[str, Any]) -> None:
    assert {"name", "description", "body"} <= form.keys() <= {"name", "description", "body", "title", "labels"}
    assert any(field["type"] != "markdown" for field in form["body"])


def test_each_field_has_what_its_type_requires_and_nothing_else(form: dict[str, Any]) -> None:
    for field in form["body"]:
        required, optional = ATTRIBUTES[field["type"]]
        assert required <= field["attributes"].keys() <= required | optional, field
        assert field.keys() <= {"type", "id", "attributes", "validations"}
        assert field.get("validations", {}).keys() <= {"required"}
        assert field["type"] != "markdown" or field.keys() == {"type", "attributes"}


def test_ids_and_labels_are_there_once(form: dict[str, Any]) -> None:
    asked = [field for field in form["body"] if field["type"] != "markdown"]
    ids, labels = [field["id"] for field in asked], [field["attributes"]["label"] for field in asked]
    assert len(set(ids)) == len(set(labels)) == len(asked)
    assert all(re.fullmatch(r"[\w-]+", id) for id in ids)


def test_choices_are_texts_and_differ(form: dict[str, Any]) -> None:
    for field in form["body"]:
        options = field["attributes"].get("options", [])
        if field["type"] == "checkboxes":
            assert all({"label"} <= option.keys() <= {"label", "required"} for option in options)
            options = [option["label"] for option in options]
        assert len(set(options)) == len(options)
        # YAML reads these words without quotes as truth values, which GitHub refuses.
        assert all(isinstance(option, str) for option in options)


def test_the_report_and_the_code_are_asked_for_and_the_report_stays_markdown(form: dict[str, Any]) -> None:
    fields = {field["id"]: field for field in form["body"] if "id" in field}
    for id in ("report", "expected", "code"):
        assert fields[id]["validations"]["required"] is True
    assert "render" not in fields["report"]["attributes"]


def test_an_issue_made_with_the_form_is_read(form: dict[str, Any]) -> None:
    environment = "PyTorch version: 2.6.0+cu124\nCUDA used to build PyTorch: 12.4\nGPU 0: NVIDIA GeForce RTX 5090\n"
    body = "".join(
        f"### {field['attributes']['label']}\n\n{environment if field['id'] == 'report' else '_No response_'}\n\n"
        for field in form["body"]
        if "id" in field
    )
    assert read(body).findings[0].id == "TOR005"


def test_the_chooser_has_the_keys_that_github_knows() -> None:
    config = pytest.importorskip("yaml").safe_load((FOLDER / "config.yml").read_text("utf-8"))
    assert config.keys() <= {"blank_issues_enabled", "contact_links"}
    assert isinstance(config["blank_issues_enabled"], bool)
    assert all(link.keys() == {"name", "url", "about"} for link in config["contact_links"])
