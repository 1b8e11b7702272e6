"""Each member has an approver, one of them acts, and another one does when the member that it runs on hangs."""

from __future__ import annotations

import json
from typing import Any

from cluster import Cluster
from hosts import hanging, of_run
from playing import wait_for
from registration import NAMESPACE, Registration

testinfra_hosts = ["ansible://control1"]
MEMBERS = ["control1", "control2", "control3"]
UNIT = "vllmd-node-approver.service"
STATUS = "/run/vllmd-node-approver/status.json"
OWN = "kubectl --kubeconfig=/etc/kubernetes/kubelet.conf"


def holder(cluster: Cluster) -> str:
    """The member that the lease says."""
    return str(cluster.get(f"--namespace={NAMESPACE}", "lease", "node-approver")["spec"]["holderIdentity"])


def named() -> set[str]:
    """Whom the members' approvers take for the one that acts."""
    return {json.loads(of_run(name).file(STATUS).content_string)["leader"] for name in MEMBERS}


def renewed(registration: Registration) -> tuple[str, str]:
    """What became of a request of node1 for its next certificate."""
    node1 = of_run("node1")
    request = registration.wait(lambda: registration.ask(node1, OWN, "node1", signer="client"), "node1 can ask")
    return registration.verdict(request)


def test_every_member_has_one_and_all_know_which_acts(cluster: Cluster) -> None:
    for name in MEMBERS:
        assert of_run(name).service(UNIT).is_running
        assert of_run(name).service("vllmd-certificates.timer").is_running
    wait_for(lambda: named() == {holder(cluster)}, "all know who acts")
    assert holder(cluster) in MEMBERS


def test_another_one_acts_when_its_member_hangs(cluster: Cluster, registration: Any) -> None:
    first = holder(cluster)
    with hanging(first):
        others = Cluster(of_run(next(name for name in MEMBERS if name != first)))
        wait_for(lambda: holder(others) not in ("", first), "another one acts", 120)
        assert renewed(Registration(others)) == ("Approved", "IdentityVerified")
    wait_for(lambda: named() == {holder(cluster)} - {first}, "the first one has noticed", 120)
    assert renewed(registration) == ("Approved", "IdentityVerified")
    wait_for(lambda: all(cluster.is_ready(name) for name in MEMBERS), "all members are ready", 180)
