"""HAProxy is told when the authority that it believes has changed, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Done
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_certificates import balancer

from .test_components import BOOT, add_file, add_process

CA = "/etc/kubernetes/pki/ca.crt"
COMMAND = ["/usr/sbin/haproxy", "-Ws", "-f", "/etc/haproxy/haproxy.cfg"]
CONFIGURATION = f"""backend kubernetes-api
    # check-ssl with a ca-file /etc/somebody/elses.crt was here before
    default-server check check-ssl verify required verifyhost kubernetes ca-file {CA} inter 2s
    server control-1 10.0.0.11:6443
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host whose HAProxy, a master and a worker, is younger than the authority."""
    add_process(tmp_path, 200, COMMAND, BOOT + 50)
    add_process(tmp_path, 201, COMMAND, BOOT + 51)
    add_file(tmp_path, CA, BOOT + 10)
    add_file(tmp_path, "/etc/haproxy/haproxy.cfg", BOOT + 10)
    (tmp_path / balancer.CONFIGURATION).write_text(CONFIGURATION)
    return tmp_path


@pytest.fixture
def reloads(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was asked of systemd, which starts a worker at each reload."""
    asked: list[list[str]] = []

    def run(argv: list[str], **_rest: float) -> Done:
        asked.append(argv)
        add_process(root, 300 + len(asked), COMMAND, BOOT + 100)
        return Done(0, "", "")

    monkeypatch.setattr(balancer, "run", run)
    return asked


def test_it_is_left_alone_while_it_believes_what_is_there(root: Path, reloads: list[list[str]]) -> None:
    add_file(root, "/etc/somebody/elses.crt", BOOT + 90)
    assert balancer.reload_stale(root) == []
    assert reloads == []


def test_it_reads_an_authority_that_has_changed_and_goes_on_running(root: Path, reloads: list[list[str]]) -> None:
    add_file(root, CA, BOOT + 60)
    assert balancer.stale(root) == [CA]
    assert balancer.reload_stale(root, check=True) == [balancer.UNIT]
    assert reloads == []
    assert balancer.reload_stale(root) == [balancer.UNIT]
    assert reloads == [["systemctl", "reload", "haproxy.service"]]
    assert balancer.reload_stale(root) == []  # its new worker is younger than the file


def test_a_host_without_it_has_nothing_to_reload(tmp_path: Path) -> None:
    assert balancer.reload_stale(tmp_path) == []
    add_process(tmp_path, 200, COMMAND, BOOT + 50)
    assert balancer.reload_stale(tmp_path) == []


def test_what_it_refuses_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_file(root, CA, BOOT + 60)
    monkeypatch.setattr(balancer, "run", lambda *_argv, **_rest: Done(1, "", "unable to load CA file\n"))
    with pytest.raises(NodeError, match=r"haproxy\.service does not read its files again: unable to load CA file"):
        balancer.reload_stale(root)
