"""`percale matrix` as people type it: manifests, a lab, a changed set."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

from tests.e2e.conftest import ROOT, Person

NGINX = ("-f", "examples/nginx.yaml", "-f", "examples/busybox.yaml")
POLICY = "examples/access-nginx.yaml"


def cells(output: str) -> dict[tuple[str, str], str]:
    return {(row["from"], row["to"]): row["ports"] for row in csv.DictReader(output.splitlines())}


def test_who_reaches_nginx(percale: Person) -> None:
    table = percale.out("matrix", *NGINX, "-f", POLICY).splitlines()
    assert table[0].split() == ["from", "╲", "to", "1", "2", "3", "4"]
    assert table[1].split() == ["1", "gomo-test/busybox", "all", "-", "all"]
    assert table[2].split() == ["2", "gomo-test/busybox-access", "all", "all", "all"]


def test_the_forms_agree(percale: Person) -> None:
    arguments = ("matrix", *NGINX, "-f", POLICY, "--port", "80")
    found = cells(percale.out(*arguments, "-o", "csv"))
    assert found["gomo-test/busybox-access", "gomo-test/nginx"] == "TCP 80"
    assert ("gomo-test/busybox", "gomo-test/nginx") not in found
    flows = json.loads(percale.out(*arguments, "-o", "json"))["flows"]
    assert {(each["from"], each["to"]) for each in flows if each["some"]} == set(found)
    assert percale.out(*arguments, "-o", "dot").count("->") == len(found)
    assert ElementTree.fromstring(percale.out(*arguments, "-o", "svg")).tag.endswith("svg")


def test_a_diff_says_what_closes_and_by_which_line(percale: Person) -> None:
    told = percale.out("matrix", *NGINX, "--diff", POLICY, code=1)
    assert "gomo-test/busybox → gomo-test/nginx\n  closes all\n    before  allowed: no policy isolates" in told
    assert f"np:gomo-test/access-nginx ({POLICY}:1)" in told
    assert "gomo-test/busybox-access →" not in told
    assert told.endswith("0 opened, 3 closed\n")


def test_a_diff_without_a_flip_ends_with_zero(percale: Person) -> None:
    assert percale.out("matrix", *NGINX, "-f", POLICY, "--diff", POLICY) == "no flow flips\n"
    assert percale.out("matrix", *NGINX, "--diff", POLICY, "--port", "80", "-n", "gomo-test", "-o", "json", code=1)


def test_a_directory_against_a_directory_deletes_what_is_not_in_it(percale: Person, tmp_path: Path) -> None:
    for name, files in (("old", ("nginx", "busybox", "access-nginx")), ("new", ("nginx", "busybox"))):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / f"{file}.yaml").write_text((ROOT / "examples" / f"{file}.yaml").read_text())
    told = percale.out("matrix", "-f", str(tmp_path / "old"), "--diff", str(tmp_path / "new"), code=1)
    assert told.endswith("3 opened, 0 closed\n")


def test_a_new_template_is_compared_pod_by_pod(percale: Person, tmp_path: Path) -> None:
    """New labels mean new names of pods: they are the old ones' successors."""
    changed = tmp_path / "changed.yaml"
    changed.write_text((ROOT / "examples/nginx.yaml").read_text().replace("run: nginx", "run: other"))
    told = percale.out("matrix", *NGINX, "-f", POLICY, "--diff", str(changed), code=1)
    assert "gomo-test/busybox → gomo-test/nginx\n  opens all" in told


def test_a_port_of_many_is_named_in_the_diff(percale: Person, tmp_path: Path) -> None:
    policy = (ROOT / POLICY).read_text()
    narrow = tmp_path / "narrow.yaml"
    narrow.write_text(policy + "    ports:\n    - port: 80\n")
    told = percale.out("matrix", *NGINX, "-f", POLICY, "--diff", str(narrow), code=1)
    assert "gomo-test/busybox-access → gomo-test/nginx\n  closes all but TCP 80\n" in told
    assert f"before  ingress allowed by np:gomo-test/access-nginx#ingress[0] ({POLICY}:11)" in told
    arguments = ("matrix", *NGINX, "-f", POLICY, "--diff", str(narrow), "--port", "80")
    assert percale.out(*arguments) == "no flow flips\n"


def test_mistakes_are_one_line(percale: Person) -> None:
    assert "no lab named nowhere is running" in percale.complaint("matrix", "--lab", "nowhere")
    assert percale.complaint("matrix", "-f", POLICY).startswith("percale: no pods and no workloads")
    assert "no pods in namespace shop; there are gomo-test" in percale.complaint("matrix", *NGINX, "-n", "shop")
    assert "'80/ipx' is not a port" in percale("matrix", *NGINX, "--port", "80/ipx", code=2).stderr


def test_a_lab_that_runs(percale: Person) -> None:
    percale("lab", "up", "-f", "examples/nginx.yaml", "-f", "examples/busybox.yaml")
    before = cells(percale.out("matrix", "-o", "csv"))
    assert before["gomo-test/busybox", "gomo-test/nginx"] == "all"
    told = percale.out("matrix", "--diff", POLICY, code=1)
    assert "gomo-test/busybox → gomo-test/nginx\n  closes all" in told
    assert "nodes → gomo-test/nginx\n  closes all" in told
    percale("lab", "apply", "-f", POLICY)
    after = cells(percale.out("matrix", "-o", "csv"))
    assert ("gomo-test/busybox", "gomo-test/nginx") not in after
    assert after["gomo-test/busybox-access", "gomo-test/nginx"] == "all"
    assert percale.out("matrix", "--lab", "lab", "--diff", POLICY) == "no flow flips\n"


def test_the_page_shows_what_the_commands_print(percale: Person) -> None:
    """Every example of docs/matrix.md that begins with `$ percale`."""
    page = (ROOT / "docs/matrix.md").read_text()
    examples = [
        block.strip().split("\n", 1) for block in page.split("```")[1::2] if block.strip().startswith("$ percale")
    ]
    assert len(examples) == 2
    for command, output in examples:
        code = 1 if "--diff" in command else 0
        assert percale.out(*command.split()[2:], code=code).strip() == output, command
