"""Every rule by which a certificate is given or denied, on requests that are signed for real."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval import decide, requests
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval.decide import NodeState, Verdict
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval.records import Allowance, Record, Use
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval.requests import CLIENT, SERVING

from .conftest import MACHINE, NOW, Key, first, registered, request, serving

READY = NodeState(MACHINE, True)


def judge(resource: dict[str, Any], *records: Record, node: NodeState | None = None, later: int = 0) -> decide.Decision:
    known = {each.name: each for each in records}
    return decide.decide(requests.read(resource), known, node, NOW + timedelta(seconds=later), 120)


def test_the_first_request_is_approved_and_spends_the_token(key: Key, other_key: Key) -> None:
    decision = judge(first(key), registered())
    assert (decision.verdict, decision.reason, decision.node) == (Verdict.APPROVE, "IdentityVerified", "gpu-1")
    assert decision.record is not None
    assert decision.record.use == Use("abcdef", key.digest, "", "csr-1", "2030-01-01T12:00:00Z")
    spent = decision.record
    # The same host asks again, after a restart of its kubelet; anybody else does not get one, whatever the Node is.
    assert judge(first(key), spent, node=READY).verdict is Verdict.APPROVE
    assert judge(first(key), spent, node=READY).record is None
    for node in (None, READY, NodeState(MACHINE, False)):
        assert judge(first(other_key), spent, node=node).reason == "TokenUsed"


@pytest.mark.parametrize(
    ("asked", "record", "node", "reason", "said"),
    [
        ({"user": "system:bootstrap:zzzzzz"}, {}, None, "UnknownToken", "given to no node"),
        ({"common_name": "system:node:gpu-2"}, {}, None, "OtherNode", "given to gpu-1, not to gpu-2"),
        ({}, {"valid_until": "2030-01-01T11:59:59Z"}, None, "RegistrationExpired", "until 2030-01-01T11:59:59Z"),
        ({}, {"left": "2030-01-01T10:00:00Z"}, None, "NodeLeft", "left on 2030-01-01T10:00:00Z"),
        ({}, {}, NodeState("f" * 32, False), "NameTaken", "on machine ffff"),
        ({}, {}, READY, "NameTaken", "is there already, and ready"),
        ({"signer": SERVING}, {}, None, "WrongSigner", "only serves for a client certificate"),
        ({"groups": ["system:authenticated"]}, {}, None, "WrongRequester", "not in group system:bootstrappers"),
        ({"names": ("gpu-1",)}, {}, None, "ForeignNames", "a client certificate has no alternative names"),
        ({"common_name": "admin"}, {}, None, "WrongSubject", "'admin' is no node's"),
        ({"common_name": "system:node:"}, {}, None, "WrongSubject", "is no node's"),
        ({"organizations": ("system:masters",)}, {}, None, "WrongSubject", "organization system:masters"),
        ({"organizations": ("system:nodes", "system:masters")}, {}, None, "WrongSubject", "nothing else"),
        ({"organizations": ()}, {}, None, "WrongSubject", "organization none"),
        ({"usages": ("digital signature", "server auth")}, {}, None, "WrongUsages", "server auth"),
        ({"usages": ("client auth",)}, {}, None, "WrongUsages", "expected digital signature"),
        ({"usages": ("any", "digital signature", "client auth")}, {}, None, "WrongUsages", "any"),
    ],
)
def test_a_first_request_that_is_not_what_was_registered_is_denied(
    key: Key, *, asked: dict[str, Any], record: dict[str, Any], node: NodeState | None, reason: str, said: str
) -> None:
    decision = judge(first(key, **asked), registered(**record), node=node)
    assert (decision.verdict, decision.reason) == (Verdict.DENY, reason)
    assert said in decision.message
    assert "\n" not in decision.message
    assert decision.record is None


def test_a_node_that_lost_its_certificate_comes_again_with_a_new_token(key: Key, other_key: Key) -> None:
    used = registered(token_id="bcdefg", use=Use("abcdef", other_key.digest, MACHINE, "csr-0", ""))
    decision = judge(first(key, user="system:bootstrap:bcdefg"), used, node=NodeState(MACHINE, False))
    assert decision.verdict is Verdict.APPROVE
    assert decision.record is not None
    assert decision.record.use.token_id == "bcdefg"


@pytest.mark.parametrize("signer", [CLIENT, SERVING])
def test_a_nodes_own_renewal_is_approved(key: Key, signer: str) -> None:
    made = serving if signer == SERVING else request
    decision = judge(made(key, signer=signer), registered(), node=READY)
    assert (decision.verdict, decision.record) == (Verdict.APPROVE, None)
    # Kubelets since 1.27 with a key that cannot encrypt.
    purpose = "client auth" if signer == CLIENT else "server auth"
    lean = made(key, signer=signer, usages=("digital signature", purpose))
    assert judge(lean, registered(), node=NodeState(MACHINE, False)).verdict is Verdict.APPROVE


@pytest.mark.parametrize(
    ("asked", "record", "node", "reason", "said"),
    [
        (
            {"names": ("gpu-1", "api.example.com")},
            {},
            READY,
            "ForeignNames",
            "api.example.com: not given to node gpu-1",
        ),
        ({"addresses": ("10.0.0.21", "10.0.0.10")}, {}, READY, "ForeignNames", "10.0.0.10: not given"),
        ({"addresses": ("fd00::1",)}, {}, READY, "ForeignNames", "fd00::1: not given"),
        (
            {"others": (x509.UniformResourceIdentifier("spiffe://x/y"),)},
            {},
            READY,
            "ForeignNames",
            "spiffe://x/y: not given",
        ),
        ({"names": (), "addresses": ()}, {}, READY, "ForeignNames", "without any name"),
        ({"user": "system:node:gpu-2"}, {}, READY, "OtherNode", "system:node:gpu-2 asks for a certificate of"),
        ({"groups": ["system:authenticated"]}, {}, READY, "WrongRequester", "not in group system:nodes"),
        ({}, {"left": "2030-01-01T10:00:00Z"}, READY, "NodeLeft", "join it again"),
        ({}, {}, NodeState("f" * 32, True), "WrongMachine", f"on machine {MACHINE}, and runs on ffff"),
        ({"usages": ("digital signature", "client auth", "server auth")}, {}, READY, "WrongUsages", "client auth"),
    ],
)
def test_a_nodes_request_that_is_not_what_was_registered_is_denied(
    key: Key, *, asked: dict[str, Any], record: dict[str, Any], node: NodeState, reason: str, said: str
) -> None:
    decision = judge(serving(key, **asked), registered(**record), node=node)
    assert (decision.verdict, decision.reason) == (Verdict.DENY, reason)
    assert said in decision.message


def test_a_node_that_is_not_registered_is_denied(key: Key) -> None:
    assert judge(serving(key), node=READY).reason == "UnknownNode"
    assert judge(serving(key), Record("gpu-1"), node=READY).reason == "UnknownNode"


def test_a_request_waits_for_its_node_and_not_for_ever(key: Key) -> None:
    for node in (None, NodeState("", False)):
        assert judge(serving(key), registered(), node=node, later=119).verdict is Verdict.WAIT
        assert judge(serving(key), registered(), node=node, later=121).reason == "UnknownMachine"
    # What would be denied anyhow does not wait.
    assert judge(serving(key, names=("x.example.com",)), registered()).reason == "ForeignNames"


def test_without_a_registered_machine_the_first_one_counts(key: Key) -> None:
    decision = judge(serving(key), registered(machine_id=""), node=READY)
    assert decision.verdict is Verdict.APPROVE
    assert decision.record is not None
    assert decision.record.use.machine_id == MACHINE
    assert judge(serving(key), decision.record, node=NodeState("e" * 32, True)).reason == "WrongMachine"


@pytest.mark.parametrize(
    ("changes", "is_decided"),
    [
        ({"signer": "kubernetes.io/kube-apiserver-client"}, False),
        ({"signer": "kubernetes.io/legacy-unknown"}, False),
        ({"signer": "example.com/mine"}, False),
        ({"user": "kubernetes-admin", "groups": ["system:masters"]}, False),
        ({"user": "system:serviceaccount:default:default"}, False),
        ({}, True),
    ],
)
def test_what_is_not_ours_or_decided_already_is_never_touched(
    key: Key, changes: dict[str, Any], is_decided: bool
) -> None:
    resource = serving(key, **changes)
    if is_decided:
        resource["status"] = {"conditions": [{"type": "Approved"}]}
    assert judge(resource, registered(), node=READY).verdict is Verdict.PASS


@pytest.mark.parametrize(
    "text", ["", "bm90IGEgcmVxdWVzdA==", "%%%", "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K"]
)
def test_a_request_that_cannot_be_read_is_denied(key: Key, text: str) -> None:
    resource = serving(key)
    resource["spec"]["request"] = text
    decision = judge(resource, registered(), node=READY)
    assert (decision.verdict, decision.reason) == (Verdict.DENY, "UnreadableRequest")


def test_a_request_that_another_key_has_signed_is_denied(key: Key) -> None:
    resource = serving(key)
    pem = base64.b64decode(resource["spec"]["request"])
    der = bytearray(base64.b64decode(b"".join(pem.splitlines()[1:-1])))
    der[-1] ^= 1
    forged = (
        b"-----BEGIN CERTIFICATE REQUEST-----\n"
        + base64.encodebytes(bytes(der))
        + b"-----END CERTIFICATE REQUEST-----\n"
    )
    resource["spec"]["request"] = base64.b64encode(forged).decode()
    assert judge(resource, registered(), node=READY).reason == "UnreadableRequest"


ALLOWED = Allowance(
    SERVING, "system:node:gpu-1", "2030-01-01T13:00:00Z", "ada", "a second name", ("gpu-1", "g1.example.com")
)


def test_what_a_person_allows_is_approved_once_and_nothing_beside_it(key: Key, other_key: Key) -> None:
    names = {"names": ("gpu-1", "g1.example.com"), "addresses": ()}
    record = registered(allowance=ALLOWED)
    decision = judge(serving(other_key, **names), record, node=READY)
    assert (decision.verdict, decision.reason) == (Verdict.APPROVE, "AllowedByPerson")
    assert "ada: a second name; else ForeignNames: g1.example.com" in decision.message
    assert decision.record == replace(record, allowance=None)
    assert judge(serving(key, **names), decision.record, node=READY).verdict is Verdict.DENY
    assert judge(serving(key, **names), record, node=READY, later=3601).verdict is Verdict.DENY
    for change in ({"names": ("gpu-1", "other.example.com")}, {"addresses": ("10.0.0.9",)}):
        assert judge(serving(key, **{**names, **change}), record, node=READY).verdict is Verdict.DENY
    for never in ({"organizations": ("system:masters",)}, {"usages": ("any",)}):
        assert judge(serving(key, **names, **never), record, node=READY).verdict is Verdict.DENY
    # What is as registered does not use it up.
    assert judge(serving(key), record, node=READY).record is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["gpu-1", "gpu-2", "kubernetes", "a.example.com"]), max_size=3, unique=True),
    st.lists(st.sampled_from(["10.0.0.21", "10.0.0.22", "127.0.0.1", "fd00::2"]), max_size=3, unique=True),
)
def test_no_foreign_name_ever_passes(key: Key, names: list[str], addresses: list[str]) -> None:
    decision = judge(serving(key, names=tuple(names), addresses=tuple(addresses)), registered(), node=READY)
    is_ours = set(names) <= {"gpu-1"} and set(addresses) <= {"10.0.0.21"} and bool(names or addresses)
    assert (decision.verdict is Verdict.APPROVE) == is_ours
