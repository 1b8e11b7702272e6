"""Certificates are renewed and the authority is replaced while a client asks every 100 ms: no request fails.

One member: what has to start again must be what nobody asks.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

testinfra_hosts = ["ansible://control1"]
pytestmark = pytest.mark.drill
ROOT = Path(__file__).parents[3]
POLL = ROOT / "tests/support/poll_kubernetes.py"
PARTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")
# Groups as in an inventory.
INVENTORY = {
    "kubernetes_nodes": {"children": {"nodes": {}}},
    "kubernetes_control_plane": {"children": {"control_plane": {}}},
}
# Issues again what the control plane has, with a life whose end is near.
SHORTEN = """
import sys
sys.path.insert(0, "/usr/local/lib/vllmd/certificates")
from datetime import UTC, datetime, timedelta
from pathlib import Path
from vllmd_certificates.kubernetes_certificates import certificates, kubeconfigs, layout, store
now, life, left = datetime.now(UTC), timedelta(minutes=15), timedelta(seconds=int(sys.argv[1]))
pki = Path("/etc/kubernetes/pki")
for authority in layout.AUTHORITIES.values():
    stem = pki / authority.stem
    issuer = certificates.issuer(Path(f"{stem}.crt").read_bytes(), Path(f"{stem}.key").read_bytes(), "ca")
    given = (issuer, now - life + left, life / timedelta(days=1))
    for leaf in authority.leaves:
        found = certificates.parse((pki / f"{leaf}.crt").read_bytes(), leaf)[0]
        store.write_pair(pki / leaf, *certificates.reissue(found, *given))
    for name in authority.kubeconfigs:
        path = Path("/etc/kubernetes", name)
        if path.exists():
            document = kubeconfigs.load(path.read_bytes(), name)
            found = certificates.parse(kubeconfigs.client(document, name), name)[0]
            certificate, key = certificates.reissue(found, *given)
            pems = certificates.pem([certificate]), certificates.key_pem(key)
            store.rewrite(path, kubeconfigs.dump(kubeconfigs.with_client(document, *pems)))
"""


def inventory() -> Path:
    """The scenario's hosts, in groups as operators have them."""
    directory = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "certificates"
    directory.mkdir(exist_ok=True)
    (directory / "groups.json").write_text(json.dumps(INVENTORY))
    hosts = directory / "hosts.yml"
    hosts.unlink(missing_ok=True)
    hosts.symlink_to(os.environ["MOLECULE_INVENTORY_FILE"])
    return directory


def play(book: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a playbook against the scenario's hosts."""
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    environment.pop("ANSIBLE_STDOUT_CALLBACK", None)
    return subprocess.Popen(
        ["ansible-playbook", f"--inventory={inventory()}", *arguments, str(ROOT / book)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def done(book: str, *arguments: str) -> str:
    """Run a playbook to its good end; what it said."""
    process = play(book, *arguments)
    said, _nothing = process.communicate(timeout=1500)
    assert process.returncode == 0, said
    return said


def rotate(*arguments: str) -> str:
    return done("playbooks/rotate.yml", "--extra-vars=rotate_authority=kubernetes", *arguments)


def started(host: Any) -> dict[str, str]:
    """The process id of each part of the control plane."""
    return {part: host.check_output(f"pgrep --newest --exact --full '(/[^ ]*/)?{part} .*'") for part in PARTS}


def issuer(host: Any, path: str) -> str:
    return str(host.check_output(f"openssl x509 -noout -issuer -in {path}"))


@pytest.fixture
def client(host: Any) -> Iterator[Any]:
    """A function that ends a client which asked every 100 ms meanwhile; what it saw."""
    host.check_output("mkdir -p /run/poll && rm -f /run/poll/*")
    host.check_output("echo %s > /run/poll/poll.py", POLL.read_text())
    host.check_output(
        "systemd-run --quiet --unit=poll python3 /run/poll/poll.py /etc/kubernetes/admin.conf /run/poll/log"
    )

    def end() -> dict[str, Any]:
        host.check_output("systemctl stop poll")
        lines = host.check_output("cat /run/poll/log").splitlines()
        seen: dict[str, Any] = json.loads(lines[-1])
        assert seen["failed"] == 0, "\n".join(lines[:20])
        return seen

    yield end
    host.run("systemctl stop poll; systemctl reset-failed poll")


@pytest.fixture(scope="module", autouse=True)
def role() -> str:
    """The role's timer, which looks every half a minute here."""
    book = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "certificates.yml"
    variables = {
        "control_plane_controller_certificates_calendar": "*:*:0/30",
        "control_plane_controller_certificates_jitter_seconds": 5,
    }
    role = {"role": "vllmd.platform.control_plane_controller", "vars": variables}
    book.write_text(json.dumps([{"hosts": "control_plane", "gather_facts": False, "roles": [role]}]))
    done(str(book))
    return done(str(book))


def test_the_role_changes_nothing_twice(role: str) -> None:
    assert "changed=0 " in role, role


def test_everything_is_listed_with_the_days_left(host: Any) -> None:
    command = [sys.executable, "-m", "vllmdctl", "certificates", "list", "-i", str(inventory()), "-o", "json"]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=900).stdout
    assert {each["host"] for each in json.loads(told)} == {"control1", "node1", "node2"}
    listed = json.loads(host.check_output("vllmd-certificates list --json"))
    names = {each["name"] for each in listed if each["state"] == "ok" and each["days_left"] > 300}
    assert {"apiserver", "etcd/server", "etcd/peer", "front-proxy-client", "ca", "etcd/ca"} <= names
    assert {"admin.conf", "controller-manager.conf", "scheduler.conf", "kubelet-client-current"} <= names
    assert not [each for each in listed if each["state"] == "unreadable"]


def test_the_timer_renews_what_is_due_and_no_request_fails(host: Any, client: Any) -> None:
    """All certificates end while the client asks, and those that it sees have been renewed before."""
    left = 150
    before = started(host)
    host.check_output("python3 -I -c %s %s", SHORTEN, str(left))
    ends = time.monotonic() + left
    time.sleep(ends - time.monotonic() + 30)
    states = {each["name"]: each["state"] for each in json.loads(host.check_output("vllmd-certificates list --json"))}
    assert set(states.values()) == {"ok"}, states
    after = started(host)
    assert client()["requests"] > left
    # Who reads its certificates again goes on running; who does not has started again.
    for part in ("kube-apiserver", "etcd"):
        assert after[part] == before[part]
    for part in ("kube-controller-manager", "kube-scheduler"):
        assert after[part] != before[part]


def test_the_authority_is_replaced_though_somebody_kills_the_run(host: Any, cluster: Any, client: Any) -> None:
    before, old = started(host), issuer(host, "/etc/kubernetes/pki/ca.crt")
    nodes = set(cluster.nodes())
    process = play("playbooks/rotate.yml", "--extra-vars=rotate_authority=kubernetes")
    time.sleep(random.uniform(20, 90))  # noqa: S311 - any moment will do
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    print(f"killed; {host.run('cat /etc/kubernetes/pki/rotation/*.json').stdout}")
    said = rotate()
    assert "nodes join with sha256:" in said
    seen = client()
    assert len(seen["issuers"]) == 2, "the client has seen certificates of both authorities"
    new = issuer(host, "/etc/kubernetes/pki/ca.crt")
    assert new != old
    for name in ("apiserver", "apiserver-kubelet-client"):
        assert issuer(host, f"/etc/kubernetes/pki/{name}.crt") == new
    assert issuer(host, "/var/lib/kubelet/pki/kubelet-client-current.pem") == new
    assert not host.file("/etc/kubernetes/pki/rotation").exists
    assert started(host)["kube-apiserver"] == before["kube-apiserver"]
    assert set(cluster.nodes()) == nodes and all(cluster.is_ready(node) for node in nodes)
    believed = cluster.get("--namespace=default", "configmap", "kube-root-ca.crt")["data"]["ca.crt"]
    assert believed == host.file("/etc/kubernetes/pki/ca.crt").content_string
    cluster.run_pod("after", "node1", "sleep", "3600")
    assert cluster.kubectl("exec", "after", "--", "busybox", "hostname") == "after"
    cluster.kubectl("delete", "pod", "after", "--now")


def test_the_way_back_is_open(host: Any, cluster: Any, client: Any) -> None:
    rotate("--extra-vars=rotate_until=trust")
    rotate("--extra-vars=rotate_until=old")
    assert client()["requests"] > 100
    assert not host.file("/etc/kubernetes/pki/rotation").exists
    assert all(cluster.is_ready(node) for node in cluster.nodes())


def test_a_node_that_nobody_rotates_stops_it(cluster: Any) -> None:
    cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "guest-1"}})
    process = play("playbooks/rotate.yml", "--extra-vars=rotate_authority=kubernetes", "--check")
    said, _nothing = process.communicate(timeout=1800)
    assert process.returncode != 0
    assert "nobody rotates guest-1" in " ".join(said.split()), said
    cluster.kubectl("delete", "node", "guest-1")
