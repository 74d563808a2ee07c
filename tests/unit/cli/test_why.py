"""`percale why` of manifests whose pods have no address yet."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.cli.conftest import run as run_command

STATEFUL_SETS = "".join(
    f"""
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: {name}}}
spec:
  serviceName: {name}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{containers: [{{name: c, image: c}}]}}
---"""
    for name in ("web", "db")
)
TO_AN_ADDRESS = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress: [{to: [{ipBlock: {cidr: 203.0.113.5/32}}], ports: [{port: 443}]}]
"""
DENY_ALL = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}}
"""
NO_METADATA = """
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: no-metadata}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress: [{action: Deny, to: [{networks: [169.254.169.254/32]}]}]
---"""


def why(capsys: pytest.CaptureFixture[str], text: str, *question: str) -> tuple[int, list[str]]:
    Path("a.yaml").write_text(STATEFUL_SETS + text)
    return run_command(capsys, "why", *question, "-f", "a.yaml")


@pytest.mark.parametrize(
    ("to", "port", "code"),
    [("203.0.113.5", "443", 0), ("203.0.113.5", "80", 1), ("203.0.113.6", "443", 1), ("203.0.113.4", "443", 1)],
)
def test_a_pod_is_not_taken_for_the_address_that_it_asks(
    capsys: pytest.CaptureFixture[str], here: Path, to: str, port: str, code: int
) -> None:
    assert why(capsys, TO_AN_ADDRESS, "web-0", to, port)[0] == code


CRON_JOB = """
apiVersion: batch/v1
kind: CronJob
metadata: {name: backup}
spec:
  schedule: "0 3 * * *"
  jobTemplate:
    spec:
      template:
        metadata: {labels: {app: web}}
        spec: {restartPolicy: Never, containers: [{name: c, image: c}]}
---"""


def test_the_pods_of_a_cron_job_can_be_asked_for(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    code, lines = why(capsys, CRON_JOB + TO_AN_ADDRESS, "cronjob/backup", "203.0.113.6", "443")
    assert code == 1
    assert lines[0].startswith("cronjob/backup: its first pod is default/backup-")
    assert lines[2] == "  egress   denied: isolated by np:default/out (a.yaml:33), and no rule allows it"
    assert why(capsys, CRON_JOB, "job/backup", "203.0.113.6", "443")[1] == [
        "percale: there is no pod of job default/backup; did you mean cronjob/default/backup?"
    ]
    assert run_command(capsys, "matrix", "-f", "a.yaml", "-o", "csv")[1][1].startswith("default/backup,")


@pytest.mark.parametrize(
    ("to", "error"),
    [
        ("10.0.0.0/8", "10.0.0.0/8 is a network, and no end of a connection; name an address of it"),
        (
            "example.com",
            "there is no pod default/example.com; for what is outside, give an address; for a Service, svc/NS/NAME",
        ),
    ],
)
def test_what_is_no_end(capsys: pytest.CaptureFixture[str], here: Path, to: str, error: str) -> None:
    assert why(capsys, "", "web-0", to, "443") == (2, [f"percale: {error}"])


def test_no_pod_has_a_link_local_address(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    assert why(capsys, NO_METADATA, "web-0", "db-0", "80")[0] == 0
    assert why(capsys, NO_METADATA, "web-0", "169.254.169.254", "80")[0] == 1


@pytest.mark.parametrize("denied", ["169.254.169.254/32", "203.0.113.5/32"])
def test_a_side_that_denies_unlikely_addresses_alone_is_not_shown_as_denying(
    capsys: pytest.CaptureFixture[str], here: Path, denied: str
) -> None:
    text = NO_METADATA.replace("169.254.169.254/32", denied) + DENY_ALL
    code, lines = why(capsys, text, "web-0", "db-0", "80")
    assert (code, lines[1]) == (1, "  egress   open: no policy isolates default/web-0")
    fix = next(line for line in lines if line.startswith("  fix "))
    assert "podSelector: {matchLabels: {app: db}}" in fix
    assert "podSelector: {matchLabels: {app: web}}" in fix
    assert not any(line.startswith("  no fix") for line in lines)


def test_a_side_alone_has_no_fix(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    """It would open something, and the flow would stay denied by the other side, which nothing can change."""
    admins = NO_METADATA.replace("169.254.169.254/32", "0.0.0.0/0")
    code, lines = why(capsys, admins + DENY_ALL, "web-0", "db-0", "80")
    assert code == 1
    assert [line for line in lines if "fix" in line] == [line for line in lines if line.startswith("  no fix   ")] != []
