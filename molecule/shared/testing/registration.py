"""What is registered of a test cluster's nodes, and requests for certificates that hold to it or not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from shlex import quote
from typing import Any

import pytest
from cluster import Cluster

NAMESPACE = "vllmd-registration"
SIGNERS = {"client": "kubernetes.io/kube-apiserver-client-kubelet", "serving": "kubernetes.io/kubelet-serving"}


@dataclass(frozen=True)
class Registration:
    """Records of nodes, and requests that hold to them or not."""

    cluster: Cluster

    def register(self, node: str, token: str, **identity: Any) -> None:
        """Write what module kubernetes_registration would of a node that this token is given to."""
        known = {"node": node, "token_id": token.partition(".")[0], **identity}
        metadata = {"name": node, "namespace": NAMESPACE}
        data = {"identity": json.dumps(known)}
        self.cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})

    def record(self, node: str) -> dict[str, str]:
        """What is registered of a node."""
        data: dict[str, str] = self.cluster.get(f"--namespace={NAMESPACE}", "configmap", node)["data"]
        return data

    def restore(self, node: str, data: dict[str, str]) -> None:
        """Write a node's record as it was."""
        patch = json.dumps({"data": data})
        self.cluster.kubectl(f"--namespace={NAMESPACE}", "patch", "configmap", node, f"--patch={patch}")

    def forget(self, node: str) -> None:
        """Remove a node's record."""
        self.cluster.kubectl(f"--namespace={NAMESPACE}", "delete", "configmap", node)

    def ask(self, host: Any, kubectl: str, node: str, *alternative: str, signer: str = "serving") -> str:
        """Ask for a node's certificate with a new key, by this `kubectl` on the host; the request's name."""
        extension = f"-addext subjectAltName={','.join(alternative)}" if alternative else ""
        subject = f"/O=system:nodes/CN=system:node:{node}"
        made = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout /dev/null"
        pem = host.check_output(f"{made} -subj {subject} {extension} 2>/dev/null | base64 --wrap=0")
        purpose = "server auth" if signer == "serving" else "client auth"
        request = {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"generateName": "test-"},
            "spec": {"request": pem, "signerName": SIGNERS[signer], "usages": ["digital signature", purpose]},
        }
        created = host.check_output(f"echo {quote(json.dumps(request))} | {kubectl} create --filename=- --output=name")
        return str(created).partition("/")[2]

    def ask_by_token(self, token: str, node: str, *alternative: str) -> str:
        """Ask for a node's client certificate with a bootstrap token, as a host that joins; the request's name."""
        server = "--server=https://127.0.0.1:6443 --tls-server-name=kubernetes"
        trusted = "--certificate-authority=/etc/kubernetes/pki/ca.crt"
        kubectl = f"kubectl --kubeconfig=/dev/null {server} {trusted} --token={token}"
        return self.ask(self.cluster.host, kubectl, node, *alternative, signer="client")

    def verdict(self, request: str) -> tuple[str, str]:
        """What was decided of a request: Approved or Denied, and its reason; waits for it."""

        def conditions() -> list[dict[str, str]]:
            found = self.cluster.get("certificatesigningrequest", request)
            return list(found["status"].get("conditions") or [])

        found = self.wait(conditions, f"request {request} is decided")
        return found[0]["type"], found[0]["reason"]

    @staticmethod
    def wait(condition: Callable[[], Any], what: str, timeout: float = 120.0) -> Any:
        """The first true value of the condition, which may fail with kubectl while an API server is away."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                value = condition()
            except AssertionError:
                value = None
            if value:
                return value
            if time.monotonic() > deadline:
                pytest.fail(f"not within {timeout:.0f} s: {what}")
            time.sleep(0.5)
