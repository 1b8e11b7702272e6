"""A virtual machine joins by itself, from its config image; a copy of that image is worth nothing; then it leaves."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from playing import play, wait_for

testinfra_hosts = ["ansible://hypervisors"]
RUN = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
LABEL = "vllmd.com/pool"
OTHERS = ("control1", "node1", "node2")
# The second guest is the first one with its config image, token and all; only its address is another, or both would
# have the same.
COPY = """
mkdir -p /var/lib/vllmd/runtimes/guest2/tree /etc/systemd/system/vllmd-hypervisor@guest2.service.d
cd /var/lib/vllmd/runtimes/guest2
osirrox -indev ../guest1/config.iso -extract / tree 2>/dev/null
chmod -R u+w tree
sed --in-place s,{0.address}/,{1.address}/, tree/vllmd/runtime.json
xorriso -as mkisofs -quiet -V CIDATA -J -R -o config.iso tree
chgrp vllmd config.iso
chmod 640 config.iso
cp /etc/systemd/system/vllmd-hypervisor@guest1.service.d/* /etc/systemd/system/vllmd-hypervisor@guest2.service.d/
cd /etc/vllmd/hypervisor
sed -e s,guest1,guest2, -e 's/tap=[a-z0-9]*/tap=guest2/' guest1.env >guest2.env
chgrp vllmd guest2.env
install --owner=vllmd --group=vllmd --mode=640 /dev/null /var/log/vllmd/guest2.log
systemctl daemon-reload
systemctl start vllmd-hypervisor@guest2.service
"""
FORGET = """
systemctl stop vllmd-hypervisor@guest2.service
rm -r /etc/systemd/system/vllmd-hypervisor@guest2.service.d /var/lib/vllmd/runtimes/guest2
rm /etc/vllmd/hypervisor/guest2.env /var/log/vllmd/guest2.log
systemctl daemon-reload
"""


@dataclass(frozen=True)
class Guest:
    """A virtual machine of this test: its name, which is its node's, its address, and that of the way out."""

    name: str
    address: str
    gateway: str

    def manifest(self, endpoint: str, pin: str) -> dict[str, Any]:
        """What an operator writes of it."""
        return {
            "apiVersion": "vllmd.com/v1alpha1",
            "kind": "Runtime",
            "metadata": {"name": self.name},
            "spec": {
                "model": {"name": "stub", "source": "local", "repository": "stub"},
                "resources": {"accelerator_count": 0, "cpu": 1, "memory": "2Gi"},
                "image": {"name": "molecule-kubernetes"},
                "monitoring": {"node_exporter": False},
                "network": {
                    "mode": "tap",
                    "bridge": "guests",
                    "address": f"{self.address}/28",
                    "gateway": self.gateway,
                },
                "kubernetes": {"api_endpoint": endpoint, "ca_pins": [pin], "labels": {LABEL: "guests"}},
            },
        }

    def run(self, command: str) -> str:
        """What a command in it says."""
        reach = ["-i", str(RUN / "identity"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        done = subprocess.run(
            ["ssh", "-q", *reach, f"root@{self.address}", command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


def places(number: int) -> tuple[Guest, Guest]:
    """The guests, at addresses of the bed's network, of which `number` is one's last part, that no host has."""
    network = "198.51.100"
    first = number - number % 16
    gateway = f"{network}.{first + 1}"
    return Guest("guest1", f"{network}.{first + 12}", gateway), Guest("guest2", f"{network}.{first + 13}", gateway)


@pytest.fixture(scope="module")
def guests(cluster: Any) -> tuple[Guest, Guest]:
    """The guest that joins, and the one that has a copy of its config image."""
    addresses = cluster.get("node", "control1")["status"]["addresses"]
    own = next(each["address"] for each in addresses if each["type"] == "InternalIP")
    return places(int(own.rpartition(".")[2]))


@pytest.fixture(scope="module")
def variables(cluster: Any, guests: tuple[Guest, Guest]) -> dict[str, Any]:
    """What an inventory says of them."""
    addresses = cluster.get("node", "control1")["status"]["addresses"]
    own = next(each["address"] for each in addresses if each["type"] == "InternalIP")
    made = "openssl x509 -pubkey -noout -in /etc/kubernetes/pki/ca.crt | openssl pkey -pubin -outform DER | sha256sum"
    pin = f"sha256:{cluster.host.check_output(made).split()[0]}"
    manifest = RUN / "guest.yaml"
    manifest.write_text(yaml.safe_dump(guests[0].manifest(f"{own}:6443", pin)), encoding="utf-8")
    return {
        "vllmd_runtime_manifests": [str(manifest)],
        "vllmd_kubernetes_admin_host": "control1",
        "vllmd_operator_public_keys": [(RUN / "identity.pub").read_text(encoding="utf-8").strip()],
        "vllmd_kernel_arguments": "mitigations=off",
        "vllmd_kubernetes_join_timeout": 900,
        "vllmd_health_timeout": 900,
        "hypervisor_environment": {"VLLMD_HYPERVISOR_ACCELERATION": "tcg"},
        "hypervisor_health_watch": False,
    }


@pytest.fixture(autouse=True)
def unharmed(cluster: Any) -> Iterator[None]:
    """Whatever the guests do, the other nodes are the same, and ready."""
    before = {name: cluster.nodes()[name]["metadata"]["uid"] for name in OTHERS}
    yield
    assert {name: cluster.nodes()[name]["metadata"]["uid"] for name in OTHERS} == before
    assert all(cluster.is_ready(name) for name in OTHERS)


def test_it_joins_by_itself(cluster: Any, guests: tuple[Guest, Guest], variables: dict[str, Any]) -> None:
    started = play("start", **variables)
    assert started.returncode == 0, started.stdout + started.stderr
    assert cluster.is_ready("guest1")
    node = cluster.nodes()["guest1"]
    assert node["metadata"]["labels"][LABEL] == "guests"
    assert {"type": "InternalIP", "address": guests[0].address} in node["status"]["addresses"]


def test_what_it_joined_with_is_revoked(cluster: Any, registration: Any, guests: tuple[Guest, Guest]) -> None:
    identity = json.loads(registration.record("guest1")["identity"])
    assert identity["token_id"]
    assert f"secret/bootstrap-token-{identity['token_id']}" not in cluster.tokens()
    assert identity["machine_id"] == guests[0].run("cat /etc/machine-id")
    assert identity["machine_id"] == cluster.nodes()["guest1"]["status"]["nodeInfo"]["machineID"]


def test_it_serves_with_the_clusters_certificate(cluster: Any, registration: Any) -> None:
    def issued() -> list[Any]:
        requests = cluster.get("certificatesigningrequests")["items"]
        serving = [each for each in requests if each["spec"]["signerName"] == "kubernetes.io/kubelet-serving"]
        return [each for each in serving if each["spec"]["username"] == "system:node:guest1" and is_issued(each)]

    registration.wait(issued, "guest1's serving certificate is issued")


def is_issued(request: dict[str, Any]) -> bool:
    """Whether a request for a certificate was approved, by what is registered, and the certificate is there."""
    reasons = [each["reason"] for each in request["status"].get("conditions") or []]
    return reasons == ["IdentityVerified"] and "certificate" in request["status"]


def test_a_pod_runs_there_and_reaches_another_nodes(cluster: Any) -> None:
    address = cluster.run_pod("far", "node1", "httpd", "-f", "-p", "8080", "-h", "/bin")
    fetch = f"wget -q -O /dev/null http://{address}:8080/busybox && exec sleep 3600"
    try:
        cluster.start_pod("near", "guest1", "sh", "-c", fetch)
        cluster.kubectl("wait", "--for=condition=Ready", "pod/near", "--timeout=300s")
        wait_for(lambda: not restarts(cluster, "near"), "the pod goes on")
        assert cluster.kubectl("logs", "near") == ""
    finally:
        cluster.kubectl("delete", "pod/far", "pod/near", "--ignore-not-found")


def restarts(cluster: Any, pod: str) -> int:
    """How often the pod's container was started again."""
    return int(cluster.get("pod", pod)["status"]["containerStatuses"][0]["restartCount"])


def test_a_second_run_changes_nothing(cluster: Any, variables: dict[str, Any]) -> None:
    before = cluster.tokens()
    again = play("start", **variables)
    assert again.returncode == 0, again.stdout + again.stderr
    assert not re.findall(r"changed=([1-9]\d*)", again.stdout), again.stdout
    assert set(cluster.tokens()) <= set(before), "a token was made"  # one of another test may have expired


def test_a_copy_of_its_config_image_is_worth_nothing(host: Any, cluster: Any, guests: tuple[Guest, Guest]) -> None:
    before = {each["metadata"]["name"] for each in cluster.get("certificatesigningrequests")["items"]}
    node = cluster.nodes()["guest1"]["metadata"]["uid"]
    host.check_output(f"sh -euc {shlex.quote(COPY.format(guests[0], guests[1]))}")
    try:
        console = host.file("/var/log/vllmd/guest2.log")
        wait_for(lambda: "FAILED: join" in console.content_string, "it says why it has not joined", 900)
        (line,) = [line for line in console.content_string.splitlines() if "FAILED: join" in line]
        assert "is unknown at" in line
        assert "was used before, has expired or was revoked" in line
        assert guests[1].run("systemctl is-failed vllmd-join.service") == "failed"
    finally:
        host.check_output(f"sh -euc {shlex.quote(FORGET)}")
    assert {each["metadata"]["name"] for each in cluster.get("certificatesigningrequests")["items"]} <= before
    assert cluster.is_ready("guest1")
    assert cluster.nodes()["guest1"]["metadata"]["uid"] == node


def test_it_leaves(host: Any, cluster: Any, registration: Any, variables: dict[str, Any]) -> None:
    left = play("leave", **variables, leave_guests="guest1")
    assert left.returncode == 0, left.stdout + left.stderr
    assert "guest1" not in cluster.nodes()
    identity = json.loads(registration.record("guest1")["identity"])
    assert identity["left"]
    gone = play("teardown", **variables)
    assert gone.returncode == 0, gone.stdout + gone.stderr
    assert not host.file("/var/lib/vllmd/runtimes").exists
    assert host.run("pgrep --full qemu-system").rc == 1
    assert set(cluster.nodes()) == set(OTHERS)
    assert f"secret/bootstrap-token-{identity['token_id']}" not in cluster.tokens()
