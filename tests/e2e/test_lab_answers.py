"""The exit codes and the JSON of the lab's verbs, of all of them in one lab."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from docs.answers import ANSWERS, documents
from tests import answers
from tests.e2e.conftest import Person


def test_every_verb_ends_with_its_code_and_prints_its_json(percale: Person, tmp_path: Path) -> None:
    for name, text in answers.FILES.items():
        (tmp_path / name).write_text(text)
    percale("lab", "up", "-f", str(tmp_path / "deployed.yaml"))
    for path, questions in answers.IN_A_LAB.items():
        for question, code in questions.items():
            words = [str(tmp_path / word) if word in answers.FILES else word for word in shlex.split(question)]
            percale(*path.split(), *words, code=code)
            if isinstance(ANSWERS[path].json, str):
                json.loads(percale.out(*path.split(), *words, "-o", "json", code=code))
            elif ANSWERS[path].json is not None:
                printed = percale.out(*path.split(), *words, "-o", "json", code=code)
                texts = printed.splitlines() if path == "lab watch" else [printed]
                assert all(documents(path, json.loads(text)) for text in texts)
