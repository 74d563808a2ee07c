"""File, environment, flags: which wins, and what is said about mistakes."""

from __future__ import annotations

import socket
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from percale.agent.config import loader
from percale.agent.config.loader import listen_ports, service_config
from percale.agent.config.settings import AgentConfig
from percale.errors import BadConfig
from percale.model.netconf import network_config


def load(tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, **flags: Any) -> AgentConfig:
    file = tmp_path / "agent.yaml"
    file.write_text(text)
    return loader.load(file, environ or {}, flags)


def refusal(tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, **flags: Any) -> str:
    with pytest.raises(BadConfig) as caught:
        load(tmp_path, text, environ, **flags)
    return str(caught.value).replace(str(tmp_path), "DIR")


def test_defaults_need_only_a_store(tmp_path: Path) -> None:
    config = load(tmp_path, "store: files:/objects")
    assert config == AgentConfig(node=socket.gethostname(), store="files:/objects")


def test_environment_beats_file_and_flag_beats_environment(tmp_path: Path) -> None:
    text = "store: files:/file\nnode: file\nipMasq: false\n"
    environ = {"PERCALE_STORE": "files:/environ", "PERCALE_NODE": "environ"}
    config = load(tmp_path, text, environ, node="flag")
    assert (config.store, config.node, config.ipMasq) == ("files:/environ", "flag", False)


def test_no_file_at_all() -> None:
    assert loader.load(None, {"PERCALE_STORE": "files:/s"}, {}).store == "files:/s"


@pytest.mark.parametrize("variable", ["PERCALE_LAB", "PERCALE_PLAN"])
def test_a_variable_of_other_commands_is_no_setting(tmp_path: Path, variable: str) -> None:
    assert load(tmp_path, "store: files:/s", {variable: "a"}) == load(tmp_path, "store: files:/s")


def test_a_number_in_the_environment(tmp_path: Path) -> None:
    name = "PERCALE_SERVICES_LEAST_CONN_INTERVAL"
    assert load(tmp_path, "store: files:/s", {name: "2.5"}).services.leastConnInterval == 2.5
    assert load(tmp_path, "store: files:/s", {name: "3"}).services.leastConnInterval == 3
    for text in ("0", "-1", "nan", "inf", "1e999", "soon"):
        assert "expected a number of seconds" in refusal(tmp_path, "store: files:/s", {name: text})


@pytest.mark.parametrize("name", ["PERCALE_IPMASQ", "PERCALE_IP_MASQ"])
@pytest.mark.parametrize(
    ("text", "value"), [("false", False), ("0", False), ("no", False), ("TRUE", True), ("1", True)]
)
def test_both_spellings_of_a_variable(tmp_path: Path, name: str, text: str, value: bool) -> None:
    assert load(tmp_path, "store: files:/s", {name: text}).ipMasq is value


def test_nested_lists_objects_and_none_in_the_environment(tmp_path: Path) -> None:
    environ = {
        "PERCALE_CNI_CONF_DIR": "/etc/here",
        "PERCALE_CNI_WIRING": "bridge",
        "PERCALE_IFACE": "eth0, eth1",
        "PERCALE_NETWORK": '{"Network": "10.0.0.0/16"}',
        "PERCALE_HTTP": "none",
        "PERCALE_PUBLIC_IPV6": "fd00::1",
        "PERCALE_NODE": "",
    }
    config = load(tmp_path, "store: files:/s\nnode: n1", environ)
    assert (config.cni.confDir, config.cni.wiring, config.iface) == ("/etc/here", "bridge", ("eth0", "eth1"))
    assert (config.network, config.http, config.publicIPv6) == ({"Network": "10.0.0.0/16"}, None, "fd00::1")
    assert config.node == "n1", "an empty variable is not set"


def test_nested_values_of_file_and_environment_are_merged(tmp_path: Path) -> None:
    config = load(tmp_path, "store: files:/s\ncni: {wiring: bridge}", {"PERCALE_CNI_BRIDGE": "br0"})
    assert (config.cni.wiring, config.cni.bridge) == ("bridge", "br0")


@pytest.mark.parametrize(
    ("text", "variable", "expected"),
    [
        ("any", "any", "any"),
        ("none", "none", "none"),
        ("[203.0.113.0/24, 'fd00::/8']", "203.0.113.0/24, fd00::/8", ("203.0.113.0/24", "fd00::/8")),
        ("[]", "", ()),
    ],
)
def test_external_ips_are_a_word_or_networks(tmp_path: Path, text: str, variable: str, expected: object) -> None:
    config = load(tmp_path, f"store: files:/s\nservices: {{externalIPs: {text}}}")
    assert config.services.externalIPs == expected
    assert load(tmp_path, "store: files:/s", {"PERCALE_SERVICES_EXTERNAL_IPS": variable}) == config
    asked = service_config(config, network_config({"Network": "10.0.0.0/16"})).external_ips
    assert asked == (expected if isinstance(expected, str) else tuple(map(ip_network, expected)))


def test_what_the_agent_listens_at(tmp_path: Path) -> None:
    assert listen_ports(load(tmp_path, "store: files:/s")) == {
        "http": 9099,
        "services.healthz": 10256,
        "services.metrics": 10249,
    }
    assert listen_ports(load(tmp_path, "store: files:/s\nhttp: '[::1]:80'\nservices: {enabled: false}")) == {"http": 80}
    assert (
        listen_ports(load(tmp_path, "store: files:/s\nhttp: unix:/x\nservices: {healthz: null, metrics: null}")) == {}
    )


def test_variables_that_kubernetes_makes_of_services_are_not_ours(tmp_path: Path) -> None:
    environ = {
        "PERCALE_WEB_SERVICE_HOST": "10.0.0.1",
        "PERCALE_WEB_SERVICE_PORT_HTTP": "80",
        "PERCALE_WEB_PORT": "tcp://10.0.0.1:80",
        "PERCALE_WEB_PORT_80_TCP_ADDR": "10.0.0.1",
        "PERCALE_DEBUG": "1",
    }
    assert load(tmp_path, "store: files:/s", environ).store == "files:/s"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("store: files:/s\nipmask: true", 'DIR/agent.yaml:2: unknown setting "ipmask"; did you mean ipMasq?'),
        ("cni:\n  sockt: /x", 'DIR/agent.yaml:2: unknown setting "cni.sockt"; did you mean cni.socket?'),
        (
            "store: files:/s\nstore: files:/t",
            'DIR/agent.yaml:2: "store" is there twice (first on line 1); remove one of them',
        ),
        ("\nipMasq: maybe", 'DIR/agent.yaml:2: ipMasq: expected true or false, not "maybe"'),
        ("stateDir: relative", 'DIR/agent.yaml:1: stateDir: expected an absolute path, not "relative"'),
        ('stateDir: "/a\\0b"', 'DIR/agent.yaml:1: stateDir: expected an absolute path, not "/a\\u0000b"'),
        ("iface: eth0", 'DIR/agent.yaml:1: iface: expected a list of interface names or addresses, not "eth0"'),
        ("publicIP: fd00::1", 'DIR/agent.yaml:1: publicIP: expected an IPv4 address, not "fd00::1"'),
        ("http: 9099", "DIR/agent.yaml:1: http: expected HOST:PORT, [IPv6]:PORT or unix:/PATH, not 9099"),
        (
            "http: localhost:99999",
            'DIR/agent.yaml:1: http: expected HOST:PORT, [IPv6]:PORT or unix:/PATH, not "localhost:99999"',
        ),
        ("ifaceCanReach: gateway", 'DIR/agent.yaml:1: ifaceCanReach: expected an address, not "gateway"'),
        (
            "store: etcd:here",
            "DIR/agent.yaml:1: store: expected files:/DIRECTORY, kubernetes:[/KUBECONFIG][?context=NAME] or "
            'etcd:http[s]://HOST:PORT[,…][?prefix=/PATH&…], not "etcd:here"',
        ),
        ("logFormat: xml", 'DIR/agent.yaml:1: logFormat: expected text or json, not "xml"'),
        ("network: 10.0.0.0/16", 'DIR/agent.yaml:1: network: expected a net-conf.json object, not "10.0.0.0/16"'),
        (
            "services: {externalIPs: some}",
            "DIR/agent.yaml:1: services.externalIPs: expected any, none, or a list of networks, as 203.0.113.0/24, "
            'not "some"',
        ),
        ("node: [", "DIR/agent.yaml:1: not valid YAML: did not find expected node content"),
        ("store: files:/s\n---\nnode: n1", "DIR/agent.yaml:3: a second document; write all settings into the first"),
        ("- a", "DIR/agent.yaml:1: expected settings such as `store: files:/DIRECTORY`"),
        ("cni: 3", "DIR/agent.yaml:1: cni: expected settings such as `store: files:/DIRECTORY`"),
        (
            "node: n1",
            "store is not set; write `store: kubernetes:` or `store: files:/DIRECTORY` into the configuration, or pass --store",
        ),
    ],
)
def test_mistakes_in_the_file_name_the_line(tmp_path: Path, text: str, words: str) -> None:
    assert refusal(tmp_path, text) == words


def test_a_network_by_either_name_takes_the_place_of_a_weaker_one(tmp_path: Path) -> None:
    text = "store: files:/s\nnetwork: {Network: 10.0.0.0/16}\n"
    config = load(tmp_path, text, networkFile="/net-conf.json")
    assert (config.network, config.networkFile) == (None, "/net-conf.json")
    config = load(tmp_path, "store: files:/s\nnetworkFile: /x\n", {"PERCALE_NETWORK": '{"Network": "10.0.0.0/16"}'})
    assert (config.network, config.networkFile) == ({"Network": "10.0.0.0/16"}, None)
    both = refusal(tmp_path, f"{text}networkFile: /x\n")
    assert both == "DIR/agent.yaml:3: networkFile: both network and networkFile are given; keep one of them"


def test_a_bad_pattern_says_why(tmp_path: Path) -> None:
    assert refusal(tmp_path, "ifaceRegex: ['(']").startswith(
        'DIR/agent.yaml:1: ifaceRegex: expected a list of regular expressions, not ["("] (missing )'
    )


def test_mistakes_in_the_environment_and_the_flags_name_them(tmp_path: Path) -> None:
    text = "store: files:/s"
    assert refusal(tmp_path, text, {"PERCALE_IFACES": "x"}) == (
        'environment: unknown variable "PERCALE_IFACES"; did you mean PERCALE_IFACE?'
    )
    assert refusal(tmp_path, text, {"PERCALE_RUNDIRS": "/x"}).endswith("did you mean PERCALE_RUN_DIR?")
    assert refusal(tmp_path, text, {"PERCALE_VERBOSE": "loud"}) == (
        'environment PERCALE_VERBOSE: expected true or false, not "loud"'
    )
    assert refusal(tmp_path, text, {"PERCALE_NETWORK": "{"}).startswith("environment PERCALE_NETWORK: not JSON")
    assert refusal(tmp_path, text, publicIP="nowhere") == ('--public-ip: expected an IPv4 address, not "nowhere"')


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="cannot be read: No such file or directory"):
        loader.load(tmp_path / "missing.yaml", {}, {})
    (tmp_path / "latin.yaml").write_bytes(b"node: \xff")
    with pytest.raises(BadConfig, match="cannot be read: not UTF-8 text"):
        loader.load(tmp_path / "latin.yaml", {}, {})


def test_every_setting_is_in_the_reference() -> None:
    reference = (Path(__file__).parents[4] / "docs" / "agent.md").read_text()
    missing = [name for name in loader.TYPES if f"`{name}`" not in reference]
    missing += [name for name in loader.TYPES if f"`{loader.environment_name(name)}`" not in reference]
    assert not missing
