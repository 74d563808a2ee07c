"""Pods that another plugin of the chain wired: what is left when their registration fails."""

from __future__ import annotations

import errno
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from percale.agent.logging import LineLog
from percale.cni.attachments import Attachments
from percale.cni.records import Attachment, Records
from percale.errors import KernelError
from percale.ipam.address_pool import Owner
from percale.render.network.pod_veth import PodWires

WIRES = PodWires("c0ffee", "eth0", "02:00:00:00:00:01", 1450, (ip_interface("10.1.0.7/24"),))
ATTACHMENT = Attachment(Owner("c0ffee", "eth0"), "percale", "/run/netns/p", WIRES, chained=True)


class Hook:
    """Notes its calls; refuses when told to."""

    def __init__(self, error: KernelError | None = None) -> None:
        self.error = error
        self.attached: list[Attachment] = []

    async def before_add(self, attachment: Attachment) -> None:
        if self.error is not None:
            raise self.error
        self.attached.append(attachment)

    def after_del(self, attachment: Attachment) -> None:
        if attachment in self.attached:
            self.attached.remove(attachment)


def attachments(directory: Path, *hooks: Hook) -> Attachments:
    unused: Any = None  # another plugin wires the pod, with its own addresses
    return Attachments(unused, unused, unused, unused, Records(directory), log=LineLog(), hooks=hooks)


async def test_a_registered_pod_is_recorded(tmp_path: Path) -> None:
    hook = Hook()
    registered = attachments(tmp_path, hook)
    await registered.register(ATTACHMENT)
    assert registered.find(ATTACHMENT.owner) == ATTACHMENT
    assert hook.attached == [ATTACHMENT]


async def test_a_registration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    first, second = Hook(), Hook(KernelError("no memory", errno=errno.ENOMEM))
    registered = attachments(tmp_path, first, second)
    with pytest.raises(KernelError, match="no memory"):
        await registered.register(ATTACHMENT)
    assert registered.find(ATTACHMENT.owner) is None
    assert first.attached == []
