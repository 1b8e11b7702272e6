"""A member of a control plane as files, and an etcdctl that keeps a cluster's revision in one."""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.kubernetes.conftest import make_authority

ETCD = """apiVersion: v1
kind: Pod
spec:
  containers:
  - command:
    - etcd
    - --advertise-client-urls=http://127.0.0.1:{client}
    - --data-dir={data}
    - --initial-advertise-peer-urls=http://127.0.0.1:{peer}
    - --initial-cluster=control-1=http://127.0.0.1:{peer}
    - --listen-client-urls=http://127.0.0.1:{client},http://10.0.0.10:2379
    - --name=control-1
    image: registry.example.com/etcd:{etcd}-0
"""
API_SERVER = """apiVersion: v1
kind: Pod
spec:
  containers:
  - command:
    - kube-apiserver
    - --advertise-address=127.0.0.1
    - --encryption-provider-config=/etc/kubernetes/encryption.yaml
    - --secure-port={port}
    image: registry.example.com/kube-apiserver:v1.20.2
"""
ENCRYPTION = """kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aescbc:
      keys:
      - name: key2
        secret: {first}
      - name: key1
        secret: "{second}"
  - identity: {{}}
"""
#: Snapshots are text here: the revision. A restored data directory has member/snap/db with the same text.
ETCDCTL = """#!{python} -IS
import json, os, sys
root = {root!r}
arguments = [each for each in sys.argv[1:] if not each.startswith("--endpoints")]
with open(root + "/calls", "a") as calls:
    print(*arguments, file=calls)
text = open(root + "/etcd").read()
if arguments == ["version"]:
    print("etcdctl version: {version}")
elif text == "down":
    sys.exit("context deadline exceeded")
elif arguments[:2] == ["endpoint", "status"]:
    status = {{"version": "{version}", "dbSize": {size}, "header": {{"revision": int(text)}}}}
    print(json.dumps([{{"Endpoint": "", "Status": status}}]))
elif arguments[:2] == ["snapshot", "save"]:
    with open(arguments[2], "w") as stream:
        stream.write(text)
elif arguments[:2] == ["snapshot", "status"]:
    said = open(arguments[2]).read()
    if not said.isdigit():
        sys.exit("Error: snapshot file integrity check failed")
    print(json.dumps({{"hash": 7, "revision": int(said), "totalKey": 3, "totalSize": 5}}))
elif arguments == ["snapshot", "restore", "--help"]:
    print("--data-dir" + {more!r})
elif arguments[:2] == ["snapshot", "restore"]:
    options = dict(each[2:].partition("=")[::2] for each in arguments[3:])
    os.makedirs(options["data-dir"] + "/member/snap")
    with open(options["data-dir"] + "/member/snap/db", "w") as stream:
        stream.write(open(arguments[2]).read())
"""
KEYS = ("c2VjcmV0IG9mIHRoZSBzZWNvbmQga2V5Li4uLi4uLi4=", "c2VjcmV0IG9mIHRoZSBmaXJzdCBrZXkuLi4uLi4uLi4=")


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Host:
    """A member whose files are below `root`."""

    root: Path
    directory: Path

    @property
    def data(self) -> Path:
        return self.root / "var/lib/etcd"

    @property
    def manifests(self) -> Path:
        return self.root / "etc/kubernetes/manifests"

    def etcd(self, said: str) -> None:
        """Let etcd be at a revision, or be `down`."""
        (self.directory / "etcd").write_text(said)

    def tool(self, *, version: str = "3.4.23", size: int = 1000, more: str = "") -> str:
        """Write etcdctl anew; the directory that it is in."""
        path = self.directory / "bin/etcdctl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            ETCDCTL.format(python=sys.executable, root=str(self.directory), version=version, size=size, more=more)
        )
        path.chmod(0o755)
        return str(path.parent)

    def calls(self) -> list[str]:
        path = self.directory / "calls"
        return path.read_text().splitlines() if path.exists() else []


def make_host(directory: Path, kind: str = "ed25519") -> Host:
    """A member of a new cluster, at revision 100."""
    host = Host(directory / "root", directory)
    pki = host.root / "etc/kubernetes/pki"
    (pki / "etcd").mkdir(parents=True)
    (pki / "ca.crt").write_text(make_authority(kind).pem)
    (pki / "etcd/ca.crt").write_text(make_authority(kind, "etcd-ca").pem)
    (pki / "sa.pub").write_text(f"public key of {directory}")
    (host.root / "etc/kubernetes/encryption.yaml").write_text(ENCRYPTION.format(first=KEYS[0], second=KEYS[1]))
    host.manifests.mkdir()
    ports = {"client": free_port(), "peer": free_port()}
    (host.manifests / "etcd.yaml").write_text(ETCD.format(data="/var/lib/etcd", etcd="3.4.13", **ports))
    (host.manifests / "kube-apiserver.yaml").write_text(API_SERVER.format(port=free_port()))
    for name in ("kube-controller-manager", "kube-scheduler"):
        (host.manifests / f"{name}.yaml").write_text(f"image: registry.example.com/{name}:v1.20.2\n")
    (host.data / "member/snap").mkdir(parents=True)
    (host.data / "member/snap/db").write_text("old")
    host.etcd("100")
    host.tool()
    return host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    directory = tmp_path / "host"
    directory.mkdir()
    return make_host(directory)


@pytest.fixture
def other(tmp_path: Path) -> Host:
    directory = tmp_path / "other"
    directory.mkdir()
    return make_host(directory)
