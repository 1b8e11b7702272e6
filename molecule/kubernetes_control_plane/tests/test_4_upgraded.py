"""Three members are upgraded one after the other while a client asks at the cluster's address."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hosts import of_run
from playing import ROOT, wait_for
from upgrading import Upgrade, next_release, next_version, versions

testinfra_hosts = ["ansible://control1"]
MEMBERS = ["control1", "control2", "control3"]
NODES = (*MEMBERS, "node1")
POLL = ROOT / "tests/support/poll_kubernetes.py"


@pytest.fixture(scope="module")
def upgrade(tmp_path_factory: pytest.TempPathFactory) -> Upgrade:
    """Runs the playbook with packages and images of the next patch release."""
    return next_release(tmp_path_factory.mktemp("next"), NODES)


@pytest.fixture
def client() -> Iterator[Any]:
    """A function that ends a client on the node which asked every 100 ms meanwhile; what it saw."""
    node = of_run("node1")
    kubeconfig = of_run("control1").check_output("cat /etc/kubernetes/admin.conf")
    node.check_output("install -d -m 0700 /run/poll && rm -f /run/poll/*")
    node.check_output("echo %s > /run/poll/poll.py && echo %s > /run/poll/kubeconfig", POLL.read_text(), kubeconfig)
    where = node.check_output("sed -n 's#.*server: ##p' /etc/kubernetes/kubelet.conf")
    node.check_output(f"sed -i 's#server: .*#server: {where}#' /run/poll/kubeconfig")
    node.check_output("systemd-run --quiet --unit=poll python3 /run/poll/poll.py /run/poll/kubeconfig /run/poll/log")

    def end() -> dict[str, Any]:
        node.check_output("systemctl stop poll")
        lines = node.check_output("cat /run/poll/log").splitlines()
        return {**json.loads(lines[-1]), "lines": lines[:-1]}

    yield end
    node.run("systemctl stop poll; systemctl reset-failed poll; rm -rf /run/poll")


def test_a_dry_run_names_one_member_after_the_other(cluster: Any, upgrade: Upgrade) -> None:
    before = versions(cluster)
    done = upgrade("--check", members=MEMBERS)
    assert done.returncode == 0, done.stdout
    said = " ".join(done.stdout.split())
    for number, name in enumerate(MEMBERS, 1):
        assert f"member {number} of 3: {name}, control plane and kubelet" in said
    assert versions(cluster) == before


def test_no_request_fails_while_all_members_are_upgraded(cluster: Any, upgrade: Upgrade, client: Any) -> None:
    done = upgrade(members=MEMBERS)
    seen = client()
    assert done.returncode == 0, done.stdout
    assert versions(cluster) == dict.fromkeys(NODES, f"v{next_version()}")
    for name in NODES:
        wait_for(lambda name=name: cluster.is_ready(name), f"{name} is ready", 120)
    assert seen["failed"] == 0, seen
    assert seen["requests"] > 100
    for name in MEMBERS:
        said = of_run(name).check_output("kubectl --kubeconfig=/etc/kubernetes/admin.conf version --output=json")
        assert json.loads(said)["serverVersion"]["gitVersion"] == f"v{next_version()}"
