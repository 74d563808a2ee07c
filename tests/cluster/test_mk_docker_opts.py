"""`percale mk-docker-opts` against flannel's own script, case by case."""

from __future__ import annotations

import os
import subprocess
from itertools import chain, combinations
from pathlib import Path

import pytest
from tests.cluster.api_server import program
from tests.kernel.agent.cluster import BIN

FILES = {
    "both": "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
    "docker masquerades": "FLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n",
    "quoted": "FLANNEL_SUBNET=\"10.1.17.1/24\"\n# no MTU\nFLANNEL_IPMASQ='true'\n",
    "nothing": "",
    "IPv6 alone": "FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00:0:0:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n",
}
FLAGS = ("-i", "-c", "-m", "-kOTHER")


def outputs(directory: Path, *flags: str, **environment: str) -> list[str]:
    """The script's and ours."""
    found = []
    for command in ((str(program("mk-docker-opts.sh")),), (str(BIN / "percale"), "mk-docker-opts")):
        arguments = (*command, "-f", str(directory / "subnet.env"), "-d", str(directory / "out"), *flags)
        subprocess.run(arguments, env={**os.environ, **environment}, check=True, timeout=60)
        found.append((directory / "out").read_text())
    return found


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_the_output_is_the_scripts(tmp_path: Path, text: str) -> None:
    (tmp_path / "subnet.env").write_text(text)
    for flags in chain.from_iterable(combinations(FLAGS, count) for count in range(len(FLAGS) + 1)):
        theirs, ours = outputs(tmp_path, *flags)
        assert theirs == ours, flags
    for environment in ({"DOCKER_OPTS": "--debug"}, {"DOCKER_OPT_ZONE": "--label=zone=a"}):
        theirs, ours = outputs(tmp_path, **environment)
        assert theirs == ours, environment
