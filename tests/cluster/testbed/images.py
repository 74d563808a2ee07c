"""The images of a testbed: one root file system with many names, made from this machine's programs and the built ones.

No registry has these names. `e2e.test -print-images` says which ones the suite uses.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.testbed.processes import TestbedError, run

IMAGE_NAMES = Path(__file__).parent / "image-names.yaml"
PAUSE = "percale.test/pause:local"
COREDNS = "percale.test/coredns:local"
AGNHOST = "percale.test/agnhost:local"
TOOLS = (
    *("bash", "conntrack", "curl", "dig", "getent", "host", "ip", "ip6tables", "iptables", "iptables-save", "jq"),
    *("nc.openbsd", "nft", "nslookup", "sh", "socat", "ss", "wget"),
)
"""What specs call in their pods, beside busybox' applets; Debian's programs where the applets are not good enough."""
_BUILT = ("agnhost", "coredns", "regression-issue-74839")
_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser-defined-in-image:x:1000:1000::/home/u:/bin/sh\n"
    "nobody:x:65534:65534::/:/bin/sh\n",
    "etc/group": "root:x:0:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n"
    "nogroup:x:65534:\n",
    "etc/wgetrc": "tries = 1\n",  # as busybox' wget, whose -T ends in a crash
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_DIRECTORIES = ("tmp", "uploads", "proc", "sys", "dev", "root", "run", "var/run", "home/u")
_COMMANDS: dict[str, dict[str, list[str]]] = {
    "agnhost": {"Entrypoint": ["/agnhost"], "Cmd": ["pause"]},
    "agnhost-prev": {"Entrypoint": ["/agnhost"], "Cmd": ["pause"]},
    "busybox": {"Cmd": ["sh"]},
    "coredns": {"Entrypoint": ["/coredns"]},
    "glibc-dns": {"Cmd": ["sleep", "3600"]},
    "iptables": {"Cmd": ["sh"]},
    "pause": {"Entrypoint": ["/pause"]},
    "regression": {"Entrypoint": ["/regression-issue-74839"]},
}
_TIME = "2020-01-01T00:00:00Z"


def archive(programs: Path) -> Path:
    """Beside the programs, made again when they are newer."""
    made = programs / "images.tar"
    sources = [programs / "e2e.test", programs / "init", Path(__file__), *(programs / name for name in _BUILT)]
    missing = [each.name for each in sources if not each.exists()]
    if missing:
        raise TestbedError(f"{programs} lacks {', '.join(missing)}; type: scripts/kubernetes-binaries e2e")
    if not made.exists() or made.stat().st_mtime < max(each.stat().st_mtime for each in sources):
        unfinished = made.with_suffix(".new")
        ours = [("pause", PAUSE), ("coredns", COREDNS), ("agnhost", AGNHOST)]
        _write(unfinished, _layer(programs), [*_names(programs), *ours])
        unfinished.rename(made)
    return made


def _names(programs: Path) -> list[tuple[str, str]]:
    """What the suite calls its images: kind and name."""
    command = ["env", f"KUBE_TEST_REPO_LIST={IMAGE_NAMES}", str(programs / "e2e.test"), "-print-images"]
    pairs = (line.split() for line in run(command).splitlines())
    return [(kind, name) for kind, name in pairs]


@dataclass
class _Tree:
    """A root file system: files by their path in it, and links."""

    files: dict[str, tuple[Path, int]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, source: Path, mode: int = 0o755) -> None:
        """With the libraries that a program loads."""
        self.files[path.lstrip("/")] = (source, mode)
        if mode == 0o755:
            printed = subprocess.run(["ldd", str(source)], capture_output=True, text=True, check=False).stdout
            for library in re.findall(r"(?:=> )?(/\S+) \(0x", printed):
                self.files[library.lstrip("/")] = (Path(os.path.realpath(library)), 0o755)

    def link(self, path: str, target: str) -> None:
        self.links.setdefault(path.lstrip("/"), target)


def _layer(programs: Path) -> bytes:
    tree = _Tree()
    busybox = Path(_program("busybox"))
    tree.add("/bin/busybox", busybox)
    tree.link("/bin/sh", "/usr/bin/sh")  # busybox' own would prefer its applets to the tools
    for tool in TOOLS:
        tree.add(f"/usr/bin/{tool}", Path(os.path.realpath(_program(tool))))
    tree.link("/bin/bash", "/usr/bin/bash")
    tree.link("/usr/bin/nc", "nc.openbsd")
    for extension in sorted(Path("/usr/lib").glob("*/xtables/*.so")):
        tree.add(str(extension), extension, 0o644)
    for applet in run([str(busybox), "--list"]).split():
        if not {f"usr/bin/{applet}"} & (tree.files.keys() | tree.links.keys()):
            tree.link(f"/bin/{applet}", "busybox")
    for name in _BUILT:
        tree.add(f"/{name}", programs / name)
    tree.link("/agnhost-2", "agnhost")
    tree.add("/pause", programs / "init")
    for name in ("localhost.crt", "localhost.key"):  # agnhost's porter serves with these
        tree.add(f"/{name}", programs / name, 0o644)
    return _packed(tree)


def _packed(tree: _Tree) -> bytes:
    directories = {"tmp"}
    for path in (*tree.files, *tree.links, *_TEXTS, *(f"{each}/" for each in _DIRECTORIES)):
        directories |= {str(each) for each in Path(path, "x" if path.endswith("/") else "").parents} - {"."}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(directories):
            info = tarfile.TarInfo(path)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if path == "tmp" else 0o755
            tar.addfile(info)
        for path, text in _TEXTS.items():
            _add(tar, path, text.encode(), 0o644)
        for path, target in sorted(tree.links.items()):
            info = tarfile.TarInfo(path)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        for path, (source, mode) in sorted(tree.files.items()):
            _add(tar, path, source.read_bytes(), mode)
    return buffer.getvalue()


def _write(path: Path, layer: bytes, names: list[tuple[str, str]]) -> None:
    """An archive as `docker save` makes it."""
    digest = hashlib.sha256(layer).hexdigest()
    blobs, manifest = {f"{digest}.tar": layer}, []
    for kind, name in names:
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "created": _TIME,
                "config": {
                    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                    **_COMMANDS[kind],
                },
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
                "history": [{"created": _TIME, "created_by": name}],
            }
        ).encode()
        file = f"{hashlib.sha256(config).hexdigest()}.json"
        blobs[file] = config
        manifest.append({"Config": file, "RepoTags": [name], "Layers": [f"{digest}.tar"]})
    blobs["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(path, "w") as tar:
        for file, content in blobs.items():
            _add(tar, file, content, 0o644)


def _add(tar: tarfile.TarFile, path: str, content: bytes, mode: int) -> None:
    info = tarfile.TarInfo(path)
    info.size, info.mode = len(content), mode
    tar.addfile(info, io.BytesIO(content))


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise TestbedError(f"no {name} here; type: scripts/system-packages cluster")
    return found
