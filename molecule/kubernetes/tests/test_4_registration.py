"""Verified registration: certificates for what was registered only, whatever happens to approver and API server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

testinfra_hosts = ["ansible://control1"]
GHOST = "ghost"
UNIT = "vllmd-node-approver.service"
STATUS = "/run/vllmd-node-approver/status.json"
OWN = "kubectl --kubeconfig=/etc/kubernetes/kubelet.conf"
BINDINGS = ("kubeadm:node-autoapprove-bootstrap", "kubeadm:node-autoapprove-certificate-rotation")


@pytest.fixture(autouse=True)
def unharmed(cluster: Any, registration: Any) -> Iterator[None]:
    """Whatever is refused, the nodes stay what they are."""
    before = {name: node["metadata"]["uid"] for name, node in cluster.nodes().items()}
    yield
    after = registration.wait(cluster.nodes, "the API answers")
    assert {name: node["metadata"]["uid"] for name, node in after.items()} == before
    assert all(cluster.is_ready(name) for name in before)


@pytest.fixture
def token(cluster: Any, registration: Any) -> Iterator[str]:
    """A token that is registered for a node that is not there."""
    made = cluster.token()
    registration.register(GHOST, made)
    yield made
    registration.forget(GHOST)


def names(host: Any) -> set[str]:
    """What the certificate that a node serves with is for."""
    text = host.check_output(
        "openssl x509 -noout -ext subjectAltName -in /var/lib/kubelet/pki/kubelet-server-current.pem"
    )
    return {each.strip() for each in text.splitlines()[1].split(",")}


def address(cluster: Any, node: str) -> str:
    found = {each["type"]: each["address"] for each in cluster.nodes()[node]["status"]["addresses"]}
    return str(found["InternalIP"])


def test_nodes_serve_with_the_clusters_certificate_for_what_they_were_given(
    cluster: Any, registration: Any, node1: Any
) -> None:
    own = registration.wait(lambda: names(node1), "node1 has a serving certificate")
    assert own == {"DNS:node1", f"IP Address:{address(cluster, 'node1')}"}
    verified = node1.check_output(
        "openssl verify -CAfile /etc/kubernetes/pki/ca.crt /var/lib/kubelet/pki/kubelet-server-current.pem"
    )
    assert verified.endswith(": OK")


def test_what_was_approved_says_why_in_a_condition_an_event_and_the_journal(
    host: Any, cluster: Any, registration: Any, token: str
) -> None:
    request = registration.ask_by_token(token, GHOST)
    assert registration.verdict(request) == ("Approved", "IdentityVerified")
    events = cluster.get("events", f"--field-selector=involvedObject.name={request}")["items"]
    assert [(each["type"], each["reason"]) for each in events] == [("Normal", "IdentityVerified")]
    lines = [
        json.loads(line)
        for line in host.check_output(f"journalctl --unit={UNIT} --output=cat").splitlines()
        if "{" in line
    ]
    (told,) = [line for line in lines if line.get("request") == request]
    assert (told["verdict"], told["node"]) == ("approved", GHOST)
    assert json.loads(host.file(STATUS).content_string)["approved"] > 0


def test_a_token_serves_one_key_once(registration: Any, token: str) -> None:
    assert registration.verdict(registration.ask_by_token(token, GHOST)) == ("Approved", "IdentityVerified")
    assert registration.verdict(registration.ask_by_token(token, GHOST)) == ("Denied", "TokenUsed")


def test_a_token_for_another_node_or_for_none_is_refused(cluster: Any, registration: Any, token: str) -> None:
    assert registration.verdict(registration.ask_by_token(token, "node1")) == ("Denied", "OtherNode")
    assert registration.verdict(registration.ask_by_token(cluster.token(), GHOST)) == ("Denied", "UnknownToken")


def test_the_name_of_a_node_that_is_there_is_refused(cluster: Any, registration: Any) -> None:
    before = registration.record("node1")
    made = cluster.token()
    try:
        registration.register("node1", made)
        assert registration.verdict(registration.ask_by_token(made, "node1")) == ("Denied", "NameTaken")
    finally:
        registration.restore("node1", before)


@pytest.mark.parametrize("foreign", ["DNS:kubernetes.default", "IP:10.96.0.1"])
def test_a_foreign_name_is_refused_and_a_person_can_allow_it_once(
    cluster: Any, registration: Any, node1: Any, foreign: str
) -> None:
    request = registration.ask(node1, OWN, "node1", "DNS:node1", foreign)
    assert registration.verdict(request) == ("Denied", "ForeignNames")
    (condition,) = cluster.get("certificatesigningrequest", request)["status"]["conditions"]
    assert foreign.partition(":")[2] in condition["message"]
    approve(request, "a test of what a person may")
    assert registration.verdict(registration.ask(node1, OWN, "node1", "DNS:node1", foreign)) == (
        "Approved",
        "AllowedByPerson",
    )
    assert registration.verdict(registration.ask(node1, OWN, "node1", "DNS:node1", foreign)) == (
        "Denied",
        "ForeignNames",
    )


def approve(request: str, why: str) -> None:
    """Run the playbook that `vllmdctl nodes approve` runs."""
    given = {
        "approve_request": request,
        "approve_by": "ada",
        "approve_why": why,
        "approve_hosts": "control_plane",
    }
    root = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
    command = [str(Path(sys.executable).with_name("ansible-playbook")), str(root / "playbooks/approve.yml")]
    command += [f"--inventory={os.environ['MOLECULE_INVENTORY_FILE']}", f"--extra-vars={json.dumps(given)}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_node_cannot_ask_for_another(registration: Any, node1: Any) -> None:
    assert registration.verdict(registration.ask(node1, OWN, "node2", "DNS:node2")) == ("Denied", "OtherNode")


def test_a_node_renews_its_own(registration: Any, node1: Any) -> None:
    assert registration.verdict(registration.ask(node1, OWN, "node1", signer="client")) == (
        "Approved",
        "IdentityVerified",
    )


def test_it_goes_on_after_it_was_killed(host: Any, registration: Any, node1: Any) -> None:
    host.check_output(f"systemctl kill --signal=KILL {UNIT}")
    assert registration.verdict(registration.ask(node1, OWN, "node1", signer="client"))[0] == "Approved"
    assert host.check_output(f"systemctl show --property=NRestarts --value {UNIT}") != "0"


def test_it_goes_on_after_the_api_server_was_restarted(host: Any, cluster: Any, registration: Any, node1: Any) -> None:
    before = host.check_output(f"systemctl show --property=MainPID --value {UNIT}")
    server = host.check_output("pgrep --exact kube-apiserver")
    host.check_output(f"kill {server}")
    registration.wait(lambda: server not in host.run("pgrep --exact kube-apiserver").stdout.split(), "it has ended")
    registration.wait(lambda: cluster.kubectl("get", "--raw=/readyz") == "ok", "the API server is ready again")
    assert registration.verdict(registration.ask(node1, OWN, "node1", signer="client"))[0] == "Approved"
    assert host.check_output(f"systemctl show --property=MainPID --value {UNIT}") == before


def test_kubeadms_own_approval_is_taken_away_again(cluster: Any, registration: Any) -> None:
    name, role = BINDINGS[0], "system:certificates.k8s.io:certificatesigningrequests:nodeclient"
    cluster.kubectl("create", "clusterrolebinding", name, f"--clusterrole={role}", "--group=system:bootstrappers")
    found = ("get", "clusterrolebinding", name, "--ignore-not-found", "--output=name")
    registration.wait(lambda: not cluster.kubectl(*found).strip(), "the binding is gone")


def test_it_may_do_nothing_else(host: Any) -> None:
    own = "kubectl --kubeconfig=/etc/vllmd/control-plane-controller/approver.conf auth can-i"
    for refused in ("get secrets --all-namespaces", "create pods", "patch nodes", "create configmaps", "list nodes"):
        assert host.run(f"{own} {refused} --namespace=kube-system").stdout.strip() == "no", refused
    environment = host.check_output(f"systemctl show --property=User,DynamicUser,LoadCredential {UNIT}")
    assert "DynamicUser=yes" in environment
    assert "admin.conf" not in host.check_output(f"systemctl cat {UNIT}")
