"""Runs `percale` as a person does, each test with labs of its own; afterwards nothing of them may be left."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PERCALE = ROOT / ".venv/bin/percale"


@dataclass(frozen=True)
class Person:
    """Somebody at a terminal, in the repository's directory."""

    runtime: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PERCALE_")}
        return {**kept, "XDG_RUNTIME_DIR": str(self.runtime)}

    def __call__(
        self, *arguments: str, code: int = 0, stdin: str = "", timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """`percale ARGUMENTS`, which must end with this code."""
        done = subprocess.run(
            [PERCALE, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self.environment,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}{self.logs()}"
        return done

    def shell(self, line: str, code: int = 0) -> str:
        """A command line as it was printed, for a shell; what it prints."""
        environment = {**self.environment, "PATH": f"{PERCALE.parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["sh", "-c", line], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60, check=False
        )
        assert done.returncode == code, f"{line}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def out(self, *arguments: str, code: int = 0, stdin: str = "") -> str:
        """What it prints."""
        return self(*arguments, code=code, stdin=stdin).stdout

    def complaint(self, *arguments: str, code: int = 2, stdin: str = "") -> str:
        """The one line on stderr."""
        done = self(*arguments, code=code, stdin=stdin)
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.strip()

    def objects(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """`percale lab get KIND -A -o json`, without those of the lab's own name server."""
        found: list[dict[str, Any]] = json.loads(self.out("lab", "get", kind, "-A", "-o", "json", *arguments))["items"]
        return [each for each in found if each["metadata"].get("labels", {}).get("k8s-app") != "kube-dns"]

    def pods(self, *arguments: str) -> dict[str, dict[str, Any]]:
        """Pods that are Ready, by namespace/name."""
        return {
            f"{pod['metadata']['namespace']}/{pod['metadata']['name']}": pod
            for pod in self.objects("pods", *arguments)
            if any(
                each["type"] == "Ready" and each["status"] == "True"
                for each in pod.get("status", {}).get("conditions", ())
            )
        }

    def probe(self, source: str, target: str, port: str, *arguments: str) -> str:
        """The word of a probe: allowed, refused, unreachable, timeout."""
        answer = subprocess.run(
            [PERCALE, "lab", "probe", source, target, port, "-o", "json", *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self.environment,
            timeout=60,
            check=False,
        )
        assert answer.stdout, answer.stderr
        result: str = json.loads(answer.stdout)["result"]
        assert answer.returncode == (0 if result == "allowed" else 1)
        return result

    def logs(self) -> str:
        """The labs' logs, for a test that fails."""
        return "".join(
            f"\n--- {path}\n{path.read_text(errors='replace')[-3000:]}"
            for pattern in ("percale/labs/*/log", "percale/labs/*/nodes/*/agent.log")
            for path in sorted(self.runtime.glob(pattern))
        )


def processes_of(runtime: Path) -> list[str]:
    """Processes that hold anything of these labs open."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            targets = [str(descriptor.readlink()) for descriptor in (entry / "fd").iterdir()]
            if any(target.startswith(str(runtime)) for target in targets):
                found.append(f"{entry.name} {(entry / 'cmdline').read_bytes()!r}")
        except OSError:  # it has ended
            continue
    return found


@pytest.fixture
def percale(tmp_path: Path) -> Iterator[Person]:
    person = Person(tmp_path)
    yield person
    if (tmp_path / "percale").exists():  # there were labs
        person("lab", "down", "--all")
    until(lambda: not processes_of(tmp_path))
