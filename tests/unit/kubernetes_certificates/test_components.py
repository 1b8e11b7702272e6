"""Which programs run with what has changed since they started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_certificates import components

BOOT = 1_700_000_000


def add_process(root: Path, pid: int, command: list[str], started: float) -> None:
    directory = root / f"proc/{pid}"
    directory.mkdir(parents=True)
    (root / "proc/stat").write_text(f"cpu 1 2\nbtime {BOOT}\n")
    (directory / "cmdline").write_bytes("\0".join([*command, ""]).encode())
    ticks = int((started - BOOT) * os.sysconf("SC_CLK_TCK"))
    fields = ["S", *["0"] * 18, str(ticks), "0"]
    (directory / "stat").write_text(f"{pid} (a ) name) {' '.join(fields)}\n")


def add_file(root: Path, path: str, changed: float) -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    os.utime(file, (changed, changed))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    manager = [
        "/usr/bin/kube-controller-manager",
        "--kubeconfig=/etc/kubernetes/manager.conf",
        "--leader-elect",
        "true",
    ]
    manager += ["--root-ca-file", "/etc/kubernetes/pki/ca.crt", "--client-ca-file=/etc/kubernetes/pki/other.crt"]
    add_process(tmp_path, 100, manager, BOOT + 50)
    add_process(tmp_path, 101, ["kube-apiserver", "--tls-cert-file=/etc/kubernetes/pki/apiserver.crt"], BOOT + 50)
    add_process(tmp_path, 102, ["bash"], BOOT + 50)
    for path in ("manager.conf", "pki/ca.crt", "pki/other.crt", "pki/apiserver.crt"):
        add_file(tmp_path, f"/etc/kubernetes/{path}", BOOT + 10)
    return tmp_path


def test_programs_are_found_by_name_with_their_arguments(root: Path) -> None:
    (found,) = components.processes(root, ["kube-controller-manager"])
    assert (found.pid, found.started) == (100, BOOT + 50)
    assert found.arguments["kubeconfig"] == "/etc/kubernetes/manager.conf"
    assert found.arguments["root-ca-file"] == "/etc/kubernetes/pki/ca.crt"


def test_what_is_as_it_was_at_its_start_is_not_stale(root: Path) -> None:
    assert components.restart_stale(root, 1, check=True) == []


@pytest.mark.parametrize("name", ["manager.conf", "pki/ca.crt"])
def test_a_program_with_an_older_file_starts_again(root: Path, name: str) -> None:
    add_file(root, f"/etc/kubernetes/{name}", BOOT + 60)
    (process,) = components.processes(root, ["kube-controller-manager"])
    assert components.stale(root, process) == [f"/etc/kubernetes/{name}"]
    assert components.restart_stale(root, 1, check=True) == ["kube-controller-manager"]


@pytest.mark.parametrize("name", ["pki/apiserver.crt", "pki/other.crt"])
def test_what_is_read_again_by_itself_starts_nothing(root: Path, name: str) -> None:
    add_file(root, f"/etc/kubernetes/{name}", BOOT + 60)
    assert components.restart_stale(root, 1, check=True) == []


def test_what_is_not_there_is_not_running(tmp_path: Path) -> None:
    assert components.processes(tmp_path, ["etcd"]) == []
    assert components.manifest_argument(tmp_path, "etcd", "data-dir") == ""
