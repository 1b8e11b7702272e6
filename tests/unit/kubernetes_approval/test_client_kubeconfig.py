"""Credentials of the approver's own, signed by a cluster that a kubectl stands for, with keys of openssl's."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl
from ansible_collections.vllmd.platform.plugins.modules import kubernetes_client_kubeconfig as module

USER = "vllmd:node-approver"
CLUSTER = {"server": "https://10.0.0.10:6443", "certificate-authority-data": "Y2E="}
KUBECTL = """#!{python} -IS
import base64, json, subprocess, sys
root = {root!r}
arguments = sys.argv[3:]
with open(root + "/calls", "a") as calls:
    print(*arguments[:3], file=calls)
if arguments[:2] == ["config", "view"]:
    print(json.dumps({{"clusters": [{{"cluster": {cluster!r}}}]}}))
elif arguments[0] == "create":
    with open(root + "/request", "w") as stream:
        json.dump(json.load(sys.stdin), stream)
elif arguments[0] == "get":
    with open(root + "/request") as stream:
        request = base64.b64decode(json.load(stream)["spec"]["request"])
    ca = ["-CA", root + "/ca.pem", "-CAkey", root + "/ca.key", "-CAcreateserial", "-days", "365"]
    signed = subprocess.run(["/usr/bin/openssl", "x509", "-req", *ca], input=request, capture_output=True, check=True)
    print(json.dumps({{"status": {{"certificate": base64.b64encode(signed.stdout).decode()}}}}))
"""


@pytest.fixture
def kubectl(tmp_path: Path) -> Kubectl:
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ca", "-days", "400"]
    made += ["-keyout", str(tmp_path / "ca.key"), "-out", str(tmp_path / "ca.pem")]
    subprocess.run(made, check=True, capture_output=True)
    program = tmp_path / "kubectl"
    program.write_text(KUBECTL.format(python=sys.executable, root=str(tmp_path), cluster=CLUSTER))
    program.chmod(0o755)
    return Kubectl(str(program), "/admin.conf")


def make(kubectl: Kubectl, path: Path, user: str = USER) -> dict[str, Any]:
    key = module.must("ecparam", "-name", "prime256v1", "-genkey", "-noout")
    module.write(path, user, module.cluster_of(kubectl), module.signed(kubectl, user, key), key)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_certificate_of_its_own_for_root_alone(kubectl: Kubectl, tmp_path: Path) -> None:
    path = tmp_path / "etc/approver.conf"
    assert module.outdated(path, USER, CLUSTER, 90) == "there is none"
    document = make(kubectl, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert document["clusters"][0]["cluster"] == CLUSTER
    pem = base64.b64decode(document["users"][0]["user"]["client-certificate-data"]).decode()
    assert module.must("x509", "-noout", "-subject", "-nameopt", "RFC2253", given=pem) == f"subject=CN={USER}\n"
    request = json.loads((tmp_path / "request").read_text())
    assert request["spec"]["signerName"] == "kubernetes.io/kube-apiserver-client"
    # What was asked for and is signed does not stay.
    assert (
        (tmp_path / "calls")
        .read_text()
        .splitlines()[-1]
        .startswith("delete certificatesigningrequest vllmd-node-approver-")
    )
    assert module.outdated(path, USER, CLUSTER, 90) == ""


def test_it_is_made_anew_when_something_differs(kubectl: Kubectl, tmp_path: Path) -> None:
    path = tmp_path / "approver.conf"
    make(kubectl, path)
    assert module.outdated(path, USER, CLUSTER, 366) == "it ends within 366 days"
    assert module.outdated(path, "vllmd:other", CLUSTER, 90) == "it is of another user"
    other = {**CLUSTER, "certificate-authority-data": "b3RoZXI="}
    assert module.outdated(path, USER, other, 90) == "the cluster has another address or other authorities"
    path.write_text("apiVersion: v1\n")
    assert module.outdated(path, USER, CLUSTER, 90) == "it cannot be read"


def test_without_openssl_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NodeError, match="install package openssl"):
        module.must("version")
