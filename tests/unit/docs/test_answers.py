"""Every command's exit codes and JSON are those of docs/answers.md."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from docs.answers import ANSWERS, documents
from tests import answers
from tests.unit.cli.conftest import percale

from percale.cli import main as entry


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    """All commands that answer, by their path."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands(entry.percale))
WITH_JSON = {
    path
    for path, command in COMMANDS.items()
    for each in command.params
    if each.name == "output" and "json" in (each.make_metavar(click.Context(command)))
}
"""Those with `-o json`."""
QUESTIONS = [
    (path, arguments, code)
    for path, questions in answers.WITHOUT_A_LAB.items()
    for arguments, code in questions.items()
]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lab runs, and the files are there."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for name, text in answers.FILES.items():
        (tmp_path / name).write_text(text)


def test_every_command_is_on_the_page_and_is_asked() -> None:
    assert ANSWERS.keys() == COMMANDS.keys()
    assert {path for path, each in ANSWERS.items() if each.json is not None} == WITH_JSON
    asked = answers.WITHOUT_A_LAB.keys() | answers.IN_A_LAB.keys() | answers.ELSEWHERE.keys()
    assert asked == COMMANDS.keys()
    assert answers.NO_ANSWER.keys() == COMMANDS.keys()
    for path, answer in ANSWERS.items():
        codes = {**answers.WITHOUT_A_LAB, **answers.IN_A_LAB}.get(path, {}).values()
        assert path in answers.ELSEWHERE or {0, *((1,) if answer.no else ())} <= set(codes), path
    for file in answers.ELSEWHERE.values():
        assert (Path(answers.__file__).parents[1] / file).exists()


@pytest.mark.parametrize(("path", "arguments", "code"), QUESTIONS)
def test_an_answer_has_its_code_and_its_json(
    path: str, arguments: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert percale(*path.split(), *shlex.split(arguments)) == code
    capsys.readouterr()
    if path in WITH_JSON:
        assert percale(*path.split(), *shlex.split(arguments), "-o", "json") == code
        document = json.loads(capsys.readouterr().out)
        assert document == [] or documents(path, document)


@pytest.mark.parametrize(("path", "arguments"), answers.NO_ANSWER.items())
def test_what_has_no_answer_is_2_and_says_why(path: str, arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    own, dashes, rest = arguments.partition("-- ")
    words = [*path.split(), *shlex.split(own)]
    for form in ((), ("-o", "json"))[: 1 + (path in WITH_JSON)]:
        assert percale(*words, *form, *([dashes.strip(), *shlex.split(rest)] if dashes else ())) == 2
        told = capsys.readouterr()
        assert told.err
        assert told.out == "" if not form else is_error(json.loads(told.out), told.err)


def is_error(document: Any, told: str) -> bool:
    """The same as the lines on stderr."""
    assert document.keys() == {"errors"}
    assert all(each.keys() == {"what", "where", "hint"} for each in document["errors"])
    return all(" ".join(each["what"].split()) in told for each in document["errors"])


def test_every_fault_of_a_manifest_is_an_error_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    Path("two.yaml").write_text(answers.CLOSED.replace("Ingress", "Ingres") + "---\n" + answers.FILES["bad.yaml"])
    assert percale("service", "list", "-f", "two.yaml", "--output=json") == 2
    told = capsys.readouterr()
    errors = json.loads(told.out)["errors"]
    assert len(errors) == len(told.err.splitlines()) > 1
    assert {each["where"].partition(":")[0] for each in errors} == {"two.yaml"}


def test_wrong_usage_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert percale("why", "-o", "json") == 2
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert error == {"what": "Missing argument 'FROM'.", "where": None, "hint": "percale why --help"}


def test_what_belongs_to_a_program_is_no_option_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert percale("lab", "exec", "web", "--", "true", "-o", "json") == 2
    assert capsys.readouterr().out == ""
