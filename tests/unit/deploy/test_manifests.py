"""What `deploy/` installs: generated from one source, and what the agent understands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy import generate

from percale import __version__
from percale.agent.config.loader import load
from percale.agent.config.settings import AgentConfig
from percale.lab.kubernetes.manifests import AGENT_RULES
from percale.model.netconf import parse_network_config

DEPLOY = Path(generate.__file__).parent


def objects(name: str) -> dict[str, dict[str, Any]]:
    """By kind."""
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / name).read_text())}


@pytest.fixture(scope="module")
def installed() -> dict[str, dict[str, Any]]:
    return objects("percale.yaml")


@pytest.fixture(scope="module")
def config(installed: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> AgentConfig:
    """The agent's settings in its container."""
    path = tmp_path_factory.mktemp("percale") / "agent.yaml"
    path.write_text(installed["ConfigMap"]["data"]["agent.yaml"])
    return load(path, {"PERCALE_NODE": "n1"}, {})


def container(daemon_set: dict[str, Any], kind: str = "containers") -> dict[str, Any]:
    found: dict[str, Any] = daemon_set["spec"]["template"]["spec"][kind][0]
    return found


def test_the_files_are_what_the_chart_says() -> None:
    for name, text in generate.generated().items():
        assert (DEPLOY / name).read_text() == text, f"{name} is not of the chart; type: make docs"


def test_the_agent_understands_its_settings(installed: dict[str, dict[str, Any]], config: AgentConfig) -> None:
    assert config.store == "kubernetes:"
    assert config.networkFile == "/etc/percale/net-conf.json"
    assert parse_network_config(installed["ConfigMap"]["data"]["net-conf.json"], "net-conf.json").networks


def test_the_probes_ask_where_the_agent_listens(installed: dict[str, dict[str, Any]], config: AgentConfig) -> None:
    agent = container(installed["DaemonSet"])
    for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        asked = agent[probe]["httpGet"]
        assert (f"{asked['host']}:{asked['port']}", asked["path"]) == (config.http, path)


def test_what_the_agent_keeps_on_the_node_is_mounted(installed: dict[str, dict[str, Any]], config: AgentConfig) -> None:
    pod = installed["DaemonSet"]["spec"]["template"]["spec"]
    of_host = {each["name"]: each["hostPath"]["path"] for each in pod["volumes"] if "hostPath" in each}
    mounts = {
        each["mountPath"]: of_host[each["name"]]
        for each in container(installed["DaemonSet"])["volumeMounts"]
        if each["name"] in of_host
    }
    assert all(inside == outside for inside, outside in mounts.items())
    cni = config.cni
    files = {str(Path(file).parent) for file in (cni.socket, config.subnetFile) if file is not None}
    assert {config.stateDir, config.runDir, cni.confDir, cni.binDir, *files} == mounts.keys() - {"/run/netns"}


def test_passwords_are_where_the_agent_looks(installed: dict[str, dict[str, Any]], config: AgentConfig) -> None:
    """A file `secretsDir/NAME/KEY`, of a Secret that need not be there, and that nobody but root reads."""
    volumes = {each["name"]: each for each in installed["DaemonSet"]["spec"]["template"]["spec"]["volumes"]}
    secret = volumes["bgp-secret"]["secret"]
    assert (secret["optional"], secret["defaultMode"]) == (True, 0o400)
    mount = next(each for each in container(installed["DaemonSet"])["volumeMounts"] if each["name"] == "bgp-secret")
    assert (mount["mountPath"], mount["readOnly"]) == (f"{config.secretsDir}/{secret['secretName']}", True)


def test_all_versions_are_the_projects(installed: dict[str, dict[str, Any]]) -> None:
    chart = yaml.safe_load((DEPLOY / "chart/Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
    assert container(installed["DaemonSet"])["image"] == f"localhost/percale:{__version__}"


def test_cleanup_takes_the_agents_place(installed: dict[str, dict[str, Any]]) -> None:
    (kind, cleanup), *others = objects("cleanup.yaml").items()
    assert (kind, others) == ("DaemonSet", [])
    assert cleanup["metadata"] == installed["DaemonSet"]["metadata"]
    removing, agent = container(cleanup, "initContainers"), container(installed["DaemonSet"])
    assert removing["args"] == ["agent", "--cleanup"]
    for field in ("env", "volumeMounts", "securityContext"):
        assert removing[field] == agent[field]


def test_with_a_proxy_of_its_own_the_api_server_has_its_own_address() -> None:
    context = {
        "Values": {**generate.values(), "apiServer": {"host": "192.0.2.1", "port": "6443"}},
        "Release": {"Namespace": "percale"},
    }
    template = (DEPLOY / "chart/templates/configmap.yaml").read_text()
    data = yaml.safe_load(generate.render(template, context))["data"]
    assert (data["apiServerHost"], data["apiServerPort"]) == ("192.0.2.1", "6443")
    keys = {
        each["valueFrom"]["configMapKeyRef"]["key"]
        for each in container(objects("percale.yaml")["DaemonSet"])["env"]
        if each["name"].startswith("KUBERNETES_SERVICE_")
    }
    assert keys <= data.keys()


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("a: {{ .Values.n }}", "a: 1"),
        ("a:\n  {{- if .Values.no }}\n  b\n  {{- else }}\n  c\n  {{- end }}\nd", "a:\n  c\nd"),
        (
            "a:\n  {{- if .Values.n }}\n  b\n  {{- if .Values.no }}\n  x\n  {{- end }}\n  {{- else }}\n  c\n  {{- end }}",
            "a:\n  b",
        ),
        ("a: |\n  {{- toPrettyJson .Values.o | nindent 2 }}", 'a: |\n  {\n    "k": "v"\n  }'),
        ("a: {{ toJson .Values.o }}", 'a: {"k":"v"}'),
        ("a: {{ quote .Values.n }}", 'a: "1"'),
    ],
)
def test_the_part_of_helms_language(template: str, text: str) -> None:
    assert generate.render(template, {"Values": {"n": 1, "no": False, "o": {"k": "v"}}}) == text


def test_what_is_not_in_that_part_is_refused() -> None:
    with pytest.raises(KeyError):
        generate.render("{{ tpl .Values.n }}", {"Values": {"n": 1}})
    with pytest.raises(KeyError):
        generate.render("{{ .Values.m }}", {"Values": {"n": 1}})


def test_net_conf_is_json(installed: dict[str, dict[str, Any]]) -> None:
    assert json.loads(installed["ConfigMap"]["data"]["net-conf.json"])["Backend"] == {"Type": "vxlan"}


def test_the_agents_of_a_lab_have_the_same_rights(installed: dict[str, dict[str, Any]]) -> None:
    assert installed["ClusterRole"]["rules"] == AGENT_RULES
