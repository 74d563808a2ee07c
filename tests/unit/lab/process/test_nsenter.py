"""A pod that is gone when a program is to run in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from percale.errors import LabError
from percale.lab.process import nsenter
from percale.lab.process.nsenter import ExecTarget, run_inside
from percale.lab.run_dir import LabDir


@pytest.mark.parametrize(
    ("lab", "hint"), [("mine", "; is it still there? percale lab get --lab mine pods -A"), (None, "")]
)
def test_what_cannot_be_entered_is_named_with_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lab: str | None, hint: str
) -> None:
    monkeypatch.setattr(nsenter, "_enter_lab", lambda _: None)
    gone = ExecTarget(str(tmp_path / "gone"), "web-0")
    with pytest.raises(LabError) as error:
        run_inside(LabDir(lab, tmp_path) if lab is not None else None, gone, ["true"])
    assert str(error.value) == f"cannot enter web-0: [Errno 2] No such file or directory: '{gone.namespace}'{hint}"
