"""``vllmdctl certificates``: what playbooks told, as tables and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import vllmdctl.ansible
from vllmdctl.ansible_play import Play
from vllmdctl.errors import FAILED, USAGE
from vllmdctl.main import main
from vllmdctl.outcome import Outcome

CERTIFICATES = {
    "control-01": [("apiserver", 200.5, "ok"), ("admin.conf", -1.0, "expired")],
    "gpu-01": [("kubelet-client-current", 12.0, "due"), ("broken.crt", None, "unreadable")],
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What playbooks were asked; no host is."""
    calls: list[dict[str, Any]] = []

    def run(play: Play, names: list[str], verb: str, *, quiet: bool = False, **variables: Any) -> Outcome:
        calls.append({"names": names, "check": play.check, **variables})
        outcome = Outcome(verb, Path("log"), Path("events"))
        for host, rows in CERTIFICATES.items():
            entries = [
                {
                    "name": name,
                    "path": f"/{name}",
                    "days_left": days,
                    "state": state,
                    "renewal": "kubeadm",
                    "expires": "",
                }
                for name, days, state in rows
            ]
            rotation = {"kubelet": {"authority": "kubernetes", "position": "trust"}} if host == "gpu-01" else {}
            outcome.published[host] = {"vllmd_certificates": {"certificates": entries, "rotation": rotation}}
        outcome.published["control-01"]["vllmd_rotated"] = {"renewed": ["/admin.conf"], "restarted": []}
        return outcome

    monkeypatch.setattr(vllmdctl.ansible, "run", run)
    return calls


def test_what_ends_first_comes_first(asked: list[Any], inventory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certificates", "list"]) == FAILED
    told = capsys.readouterr()
    names = [line.split()[1] for line in told.out.splitlines()[1:]]
    assert names == ["broken.crt", "admin.conf", "kubelet-client-current", "apiserver"]
    assert "gpu-01: a rotation of authority kubernetes is under way, kubelet at 'trust'" in told.err
    assert "2 of 4 certificates have expired or cannot be read" in told.err


def test_only_what_ends_soon_is_for_programs_too(
    asked: list[Any], inventory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["certificates", "list", "--days", "30", "-o", "json"])
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == [
        "broken.crt",
        "admin.conf",
        "kubelet-client-current",
    ]


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        ([], {}),
        (["--all"], {"rotate_everything": True}),
        (["--authority", "etcd"], {"rotate_authority": "etcd"}),
        (["--authority", "kubernetes", "--until", "old"], {"rotate_authority": "kubernetes", "rotate_until": "old"}),
    ],
)
def test_rotate_says_what_is_wanted(
    asked: list[Any],
    inventory: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    variables: dict[str, Any],
) -> None:
    assert main(["certificates", "rotate", *arguments]) == 0
    assert asked == [{"names": ["rotate"], "check": False, **variables}]
    assert "/admin.conf" in capsys.readouterr().out


def test_how_far_without_what_is_refused(asked: list[Any], inventory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certificates", "rotate", "--until", "swap"]) == USAGE
    assert asked == []
    assert "name it with --authority" in capsys.readouterr().err
