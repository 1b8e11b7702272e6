"""The approver's loop against an API that holds objects as a cluster does: who acts, in which order, what is told."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval import records
from vllmd_node_approver.approver import BINDINGS, Approver, Settings
from vllmd_node_approver.election import Election
from vllmd_node_approver.errors import CONFLICT, NOT_FOUND, ClusterError
from vllmd_node_approver.report import Report

from .conftest import MACHINE, Key, first, registered, serving


class Api:
    """What of a cluster the approver uses; every object has a version, and an old one is refused."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {"csr": {}, "record": {}, "node": {}, "lease": {}}
        self.events: list[dict[str, Any]] = []
        self.written: list[str] = []
        self.bindings: list[str] = list(BINDINGS)
        self.trouble: ClusterError | None = None

    def put(self, kind: str, document: dict[str, Any]) -> None:
        document["metadata"].setdefault("resourceVersion", "1")
        self.objects[kind][document["metadata"]["name"]] = document

    def _get(self, kind: str) -> list[dict[str, Any]]:
        if self.trouble:
            raise self.trouble
        return copy.deepcopy(list(self.objects[kind].values()))

    def _replace(self, kind: str, document: dict[str, Any]) -> None:
        if self.trouble:
            raise self.trouble
        metadata = document["metadata"]
        now = self.objects[kind].get(metadata["name"])
        if now is None:
            raise ClusterError("not found", NOT_FOUND)
        if now["metadata"]["resourceVersion"] != metadata.get("resourceVersion"):
            raise ClusterError("the object has been modified", CONFLICT)
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
        self.objects[kind][metadata["name"]] = copy.deepcopy(document)
        self.written.append(kind)

    def requests(self) -> list[dict[str, Any]]:
        return self._get("csr")

    def records(self) -> list[dict[str, Any]]:
        return self._get("record")

    def keep_record(self, config_map: dict[str, Any]) -> None:
        self._replace("record", config_map)

    def node(self, name: str) -> dict[str, Any] | None:
        return next((each for each in self._get("node") if each["metadata"]["name"] == name), None)

    def decide(self, request: dict[str, Any]) -> None:
        self._replace("csr", request)

    def tell(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def lease(self, name: str) -> dict[str, Any] | None:
        return next((each for each in self._get("lease") if each["metadata"]["name"] == name), None)

    def keep_lease(self, lease: dict[str, Any], *, is_new: bool) -> None:
        if is_new:
            if self.objects["lease"]:
                raise ClusterError("already exists", CONFLICT)
            self.put("lease", lease)
        else:
            self._replace("lease", lease)

    def remove_bindings(self, names: list[str]) -> list[str]:
        removed, self.bindings = [each for each in self.bindings if each in names], []
        return removed


class Clock:
    """Seconds that only a test lets pass."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def api(key: Key) -> Api:
    api = Api()
    api.put("record", records.config_map(registered()))
    return api


def approver(api: Api, directory: Path, clock: Clock, member: str = "cp-1") -> Approver:
    given = Settings(member, 2, 120, 15)
    election = Election(api, member, 15, clock)
    return Approver(api, election, Report(directory / f"{member}.json", member), given)  # type: ignore[arg-type]


def status(directory: Path, member: str = "cp-1") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / f"{member}.json").read_text())
    return found


def condition(api: Api, name: str = "csr-1") -> tuple[str, str]:
    (found,) = api.objects["csr"][name]["status"]["conditions"]
    return found["type"], found["reason"]


def test_a_node_is_approved_and_everything_is_told(
    api: Api, key: Key, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = first(key)
    # The registration's time is over in the year of these tests, or not yet begun.
    api.put("record", records.config_map(registered(valid_until="2999-01-01T00:00:00Z")))
    api.put("csr", resource)
    approver(api, tmp_path, Clock()).look()
    assert condition(api) == ("Approved", "IdentityVerified")
    # The token counts as used before the certificate is given.
    assert api.written == ["record", "csr"]
    assert json.loads(api.objects["record"]["gpu-1"]["data"]["use"])["key"] == key.digest
    (event,) = api.events
    assert (event["type"], event["reason"], event["involvedObject"]["name"]) == ("Normal", "IdentityVerified", "csr-1")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = next(line for line in lines if line["event"] == "decision")
    assert (told["verdict"], told["node"], told["user"]) == ("approved", "gpu-1", "system:bootstrap:abcdef")
    assert any(line["event"] == "bindings" and line["removed"] == list(BINDINGS) for line in lines)
    assert status(tmp_path)["approved"] == 1
    assert status(tmp_path)["bindings_removed"] == 2


def test_two_that_come_with_one_token_at_once_are_not_both_approved(
    api: Api, key: Key, other_key: Key, tmp_path: Path
) -> None:
    api.put("record", records.config_map(registered(valid_until="2999-01-01T00:00:00Z")))
    api.put("csr", first(key))
    second = first(other_key)
    second["metadata"]["name"] = "csr-2"
    api.put("csr", second)
    approver(api, tmp_path, Clock()).look()
    assert [condition(api, name) for name in ("csr-1", "csr-2")] == [
        ("Approved", "IdentityVerified"),
        ("Denied", "TokenUsed"),
    ]
    assert status(tmp_path)["denied"] == {"TokenUsed": 1}
    assert [each["type"] for each in api.events] == ["Normal", "Warning"]


def test_a_request_that_waits_is_decided_when_its_node_is_there(api: Api, key: Key, tmp_path: Path) -> None:
    api.put("csr", serving(key, created="2999-01-01T00:00:00Z"))
    one = approver(api, tmp_path, Clock())
    one.look()
    assert status(tmp_path)["waiting"] == ["csr-1"]
    api.put("node", {"metadata": {"name": "gpu-1"}, "status": {"nodeInfo": {"machineID": MACHINE}}})
    one.look()
    assert (condition(api), status(tmp_path)["waiting"]) == (("Approved", "IdentityVerified"), [])


def test_others_requests_stay_as_they_are(api: Api, key: Key, tmp_path: Path) -> None:
    api.put("csr", serving(key, signer="example.com/mine"))
    before = copy.deepcopy(api.objects["csr"])
    approver(api, tmp_path, Clock()).look()
    assert (api.objects["csr"], api.events) == (before, [])


def test_an_api_that_restarts_is_told_once_and_waited_for(
    api: Api, key: Key, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, clock = approver(api, tmp_path, Clock()), Clock()
    api.trouble = ClusterError("connection refused")
    one.look()
    one.look()
    assert capsys.readouterr().out.count("connection refused") == 1
    assert status(tmp_path)["trouble"] == "connection refused"
    api.trouble = None
    api.put("csr", serving(key, names=("x.example.com",)))
    one.look()
    assert condition(api) == ("Denied", "ForeignNames")
    assert (status(tmp_path)["trouble"], status(tmp_path)["leader"]) == ("", "cp-1")
    assert clock.now == 1000.0


def test_a_damaged_record_stops_nothing_but_its_own_node(
    api: Api, key: Key, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.put("record", {"metadata": {"name": "gpu-9"}, "data": {"identity": "{"}})
    api.put("csr", serving(key, names=("x.example.com",)))
    approver(api, tmp_path, Clock()).look()
    assert condition(api) == ("Denied", "ForeignNames")
    assert "record gpu-9: identity cannot be read" in capsys.readouterr().out


def test_one_leads_and_another_follows_when_it_dies(api: Api, key: Key, tmp_path: Path) -> None:
    clock = Clock()
    one, two = approver(api, tmp_path, clock), approver(api, tmp_path, clock, "cp-2")
    for each in (one, two):
        each.look()
    assert {status(tmp_path, member)["leader"] for member in ("cp-1", "cp-2")} == {"cp-1"}
    api.put("csr", serving(key, names=("x.example.com",)))
    two.look()
    assert "conditions" not in api.objects["csr"]["csr-1"]["status"]
    for _second in range(4):
        clock.now += 5
        two.look()
    assert status(tmp_path, "cp-2")["leader"] == "cp-2"
    assert condition(api) == ("Denied", "ForeignNames")
    one.look()
    assert status(tmp_path)["leader"] == "cp-2"


def test_a_lease_that_is_given_back_is_taken_at_once(api: Api) -> None:
    clock = Clock()
    one, two = Election(api, "cp-1", 15, clock), Election(api, "cp-2", 15, clock)
    assert (one.hold(), two.hold()) == (True, False)
    one.release()
    assert (one.is_leader, two.hold()) == (False, True)
    assert (one.hold(), one.holder) == (False, "cp-2")
    one.release()
    assert two.is_leader


def test_of_two_that_are_as_quick_one_leads(api: Api) -> None:
    clock = Clock()
    one, two = Election(api, "cp-1", 15, clock), Election(api, "cp-2", 15, clock)
    stale = Api.lease
    one.hold()
    clock.now += 1
    # Both see the same free lease, and the other one writes first.
    free = {**api.objects["lease"]["node-approver"]}
    free["spec"] = {**free["spec"], "holderIdentity": ""}
    api.objects["lease"]["node-approver"] = free
    api.lease = lambda _name: copy.deepcopy(free)  # type: ignore[method-assign]
    assert two.hold()
    three = Election(api, "cp-3", 15, clock)
    assert not three.hold()
    assert stale(api, "node-approver")["spec"]["holderIdentity"] == "cp-2"  # type: ignore[index]
