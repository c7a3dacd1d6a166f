"""Commands that are pasted change the examined environment, and no other."""

from __future__ import annotations

import pytest

from fp8doctor.judging.commands import for_examined
from fp8doctor.judging.report import FindingRecord
from fp8doctor.model import Action, Facts, ProbeRun, Severity

OWN, EXAMINED = "/opt/tools/fp8doctor/bin/python", "/home/ann lee/venv/bin/python3.12"


def pasted(command: str | None, examined: str = EXAMINED) -> str | None:
    finding = FindingRecord("TOR001", "x", Severity.ERROR, "box", "t", actions=(Action("Do it", command),))
    runs: dict[str, ProbeRun[Facts]] = {
        "driver": ProbeRun("ok", interpreter=OWN),
        "torch_build": ProbeRun("ok", interpreter=examined),
        "libraries": ProbeRun("ok", interpreter=examined),
    }
    return for_examined((finding,), runs)[0].actions[0].command


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("python -m pip install torch", "'{}' -m pip install torch"),
        (
            "python -m pip uninstall -y x && python -m pip install x",
            "'{}' -m pip uninstall -y x && '{}' -m pip install x",
        ),
        ("MAX_JOBS=4 FORCE=TRUE python -m pip install .", "MAX_JOBS=4 FORCE=TRUE '{}' -m pip install ."),
        ("python -c 'import x'", "'{}' -c 'import x'"),
        ("apt install python3.12-dev", "apt install python3.12-dev"),
        ("/other/bin/python -m pip install torch", "/other/bin/python -m pip install torch"),
        ("import torch  # python -m pip is another way", "import torch  # python -m pip is another way"),
    ],
)
def test_a_command_names_the_examined_python_where_the_doctors_own_is_another(said: str, meant: str) -> None:
    assert pasted(said) == meant.format(EXAMINED, EXAMINED)
    assert pasted(said, OWN) == said


def test_what_is_no_python_gets_into_no_command() -> None:
    assert pasted("python -m pip install torch", "/x/python; rm -rf ~") == "python -m pip install torch"
    assert pasted(None) is None
