"""Modules that an administrator's kubectl serves, against one that keeps records and requests in a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval import guests, records, requests, store
from ansible_collections.vllmd.platform.plugins.modules import (
    kubernetes_approve,
    kubernetes_guest_info,
    kubernetes_registration,
    kubernetes_token,
)

from .conftest import MACHINE, Key, registered, serving

KUBECTL = """#!{python} -IS
import json, sys
path = {path!r}
with open(path) as stream:
    cluster = json.load(stream)
arguments = sys.argv[3:]
if arguments[0] == "get":
    kind, name = arguments[1:3]
    if name in cluster[kind]:
        print(json.dumps(cluster[kind][name]))
elif arguments[0] == "create":
    document = json.load(sys.stdin)
    kind, name = document["kind"].lower(), document["metadata"]["name"]
    if name in cluster[kind]:
        sys.exit("Error from server (AlreadyExists): it already exists")
    space = document["metadata"].get("namespace", "kube-system")
    if space not in ["kube-system", *cluster["namespace"]]:
        sys.exit('Error from server (NotFound): error when creating "STDIN": namespaces "%s" not found' % space)
    cluster[kind][name] = document
elif arguments[:2] == ["replace", "--raw"]:
    document = json.load(sys.stdin)
    cluster["certificatesigningrequest"][document["metadata"]["name"]] = document
elif arguments[0] == "replace":
    document = json.load(sys.stdin)
    cluster[document["kind"].lower()][document["metadata"]["name"]] = document
with open(path, "w") as stream:
    json.dump(cluster, stream)
"""


@pytest.fixture
def kubectl(tmp_path: Path) -> Kubectl:
    program, path = tmp_path / "kubectl", tmp_path / "cluster.json"
    program.write_text(KUBECTL.format(python=sys.executable, path=str(path)))
    program.chmod(0o755)
    path.write_text(json.dumps({"configmap": {}, "namespace": {}, "certificatesigningrequest": {}, "secret": {}}))
    return Kubectl(str(program), "/admin.conf")


def cluster(kubectl: Kubectl) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(kubectl.program).with_name("cluster.json").read_text())
    return found


def ask(kubectl: Kubectl, resource: dict[str, Any], *conditions: str) -> None:
    resource["status"] = {"conditions": [{"type": each} for each in conditions]}
    found = cluster(kubectl)
    found["certificatesigningrequest"][resource["metadata"]["name"]] = resource
    Path(kubectl.program).with_name("cluster.json").write_text(json.dumps(found))


def given(**changes: Any) -> dict[str, Any]:
    values = {"state": "present", "name": "gpu-1", "machine_id": MACHINE, "addresses": ["10.0.0.21"], "names": []}
    return {**values, "token_id": "abcdef", "minutes": 15, **changes}


def test_a_node_is_registered_with_a_namespace_and_struck_off(kubectl: Kubectl) -> None:
    place = store.Store(kubectl)
    found = place.read("gpu-1")
    record = kubernetes_registration.wanted(found.record, given())
    assert record is not None
    place.write(found, record)
    assert list(cluster(kubectl)["namespace"]) == [records.NAMESPACE]
    assert place.read("gpu-1").record == record
    assert record.identity is not None
    assert (record.identity.token_id, bool(record.identity.valid_until)) == ("abcdef", True)
    # Another run for the node that is there changes nothing.
    assert kubernetes_registration.wanted(record, given(token_id="", minutes=0)) == record
    left = kubernetes_registration.wanted(record, given(state="left"))
    assert left is not None
    place.write(place.read("gpu-1"), left)
    again = place.read("gpu-1").record
    assert kubernetes_registration.wanted(again, given(state="left")) == again
    assert kubernetes_registration.wanted(None, given(state="left")) is None


def test_a_token_is_made_for_a_node_that_is_registered_with_it(kubectl: Kubectl) -> None:
    node = {"name": "gpu-1", "machine_id": MACHINE, "addresses": ["10.0.0.21"], "names": ["gpu-1.example"]}
    made = {"minutes": 15, "description": "", "node": node}
    first = kubernetes_token.make(kubectl, made)
    second = kubernetes_token.make(kubectl, made)
    record = store.Store(kubectl).read("gpu-1").record
    assert record is not None
    assert record.identity is not None
    assert record.identity.token_id == second.partition(".")[0]
    assert record.identity.addresses == ("10.0.0.21",)
    assert [each.rpartition("-")[2] for each in cluster(kubectl)["secret"]] == [
        each.partition(".")[0] for each in (first, second)
    ]
    # What cannot be registered gets no token.
    with pytest.raises(records.RecordError, match="address"):
        kubernetes_token.make(kubectl, {**made, "node": {**node, "addresses": ["nowhere"]}})
    assert len(cluster(kubectl)["secret"]) == 2


def allow(kubectl: Kubectl, check: bool = False, **changes: Any) -> tuple[bool, str]:
    values = {"request": "csr-1", "by": "ada", "why": "a second name", "minutes": 60, **changes}
    return kubernetes_approve.allow(kubectl, values, check=check)


def test_a_request_that_waits_is_approved_by_a_person(kubectl: Kubectl, key: Key) -> None:
    ask(kubectl, serving(key, names=("x.example.com",)))
    assert allow(kubectl, check=True)[0]
    assert allow(kubectl) == (True, "request csr-1 is approved")
    (condition,) = cluster(kubectl)["certificatesigningrequest"]["csr-1"]["status"]["conditions"]
    assert (condition["type"], condition["message"]) == ("Approved", "allowed by ada: a second name")
    assert allow(kubectl) == (False, "request csr-1 is approved already")


def test_what_was_denied_is_allowed_the_next_time(kubectl: Kubectl, key: Key) -> None:
    ask(kubectl, serving(key, names=("x.example.com",), addresses=()), "Denied")
    changed, message = allow(kubectl)
    assert changed
    assert message.startswith("request csr-1 stays denied; the next of system:node:gpu-1 for the same names")
    allowance = records.read(cluster(kubectl)["configmap"]["gpu-1"]).allowance
    assert allowance is not None
    assert (allowance.names, allowance.by, allowance.why) == (("x.example.com",), "ada", "a second name")
    assert not allow(kubectl)[0]
    # What is registered stays.
    place = store.Store(kubectl)
    place.write(place.read("gpu-1"), registered())
    assert allow(kubectl, why="another reason")[0]
    kept = records.read(cluster(kubectl)["configmap"]["gpu-1"])
    assert kept.identity == registered().identity


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"signer": "example.com/other"}, "no node's; use 'kubectl certificate'"),
        ({"user": "kubernetes-admin"}, "no node's; use 'kubectl certificate'"),
        ({"organizations": ("system:masters",)}, "nobody can allow that"),
        ({"usages": ("any",)}, "nobody can allow that"),
    ],
)
def test_what_is_no_nodes_certificate_nobody_can_allow(
    kubectl: Kubectl, key: Key, changes: dict[str, Any], said: str
) -> None:
    ask(kubectl, serving(key, **changes), "Denied")
    with pytest.raises(NodeError, match=said):
        allow(kubectl)
    assert cluster(kubectl)["configmap"] == {}


def test_a_request_that_is_not_there(kubectl: Kubectl) -> None:
    with pytest.raises(NodeError, match="there is no request csr-1; 'vllmdctl nodes list' shows"):
        allow(kubectl)


def test_without_cryptography_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_HAS_CRYPTOGRAPHY", False)
    with pytest.raises(requests.UnreadableError, match="install package python3-cryptography"):
        requests.need_cryptography()


@pytest.mark.parametrize(("patience", "looks", "is_member"), [(60, 3, True), (0, 1, False)])
def test_a_guest_whose_node_is_silent_gets_time(
    kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch, patience: int, looks: int, is_member: bool
) -> None:
    silent, member = guests.Guest(False, False, True, "", True), guests.Guest(True, False, True, "")
    said = [silent, silent, member]
    left = list(said)
    monkeypatch.setattr(kubernetes_guest_info, "look", lambda *_given: left.pop(0))
    monkeypatch.setattr(kubernetes_guest_info, "_PAUSE_SECONDS", 0.01)
    assert kubernetes_guest_info.look_patiently(kubectl, {}, patience).is_member is is_member
    assert len(said) - len(left) == looks
