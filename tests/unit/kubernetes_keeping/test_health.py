"""A part that hangs is restarted, with longer and longer pauses; everything else is said."""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_keeping import health, validity, watching
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_keeping.errors import KeepingError
from tests.unit.kubernetes.conftest import make_authority
from tests.unit.kubernetes_keeping.conftest import Host

RULES = health.Rules()
HANGS = {health.KUBELET: "its /healthz says nothing: timed out"}


def rounds(seen: health.Seen, count: int, interval: int = 30) -> list[health.Outcome]:
    """What comes of the same sight again and again."""
    memory: dict[str, health.Part] = {}
    found = []
    for number in range(count):
        outcome = health.decide(seen, memory, 1_000_000 + number * interval, RULES)
        memory = dict(outcome.memory)
        found.append(outcome)
    return found


def test_a_member_that_is_well_is_left_alone() -> None:
    outcome = rounds(health.Seen({}), 5)[-1]
    assert outcome.healthy
    assert not outcome.restarts
    assert not outcome.warnings


def test_what_hangs_is_restarted_in_the_third_round() -> None:
    found = rounds(health.Seen(HANGS), 3)
    assert [bool(each.restarts) for each in found] == [False, False, True]
    assert found[-1].restarts == {"kubelet": "its /healthz says nothing: timed out, 3 times in a row"}
    assert "seen 2 times in a row, 3 are needed" in found[1].warnings[0]


def test_pauses_between_restarts_grow() -> None:
    times = [number for number, each in enumerate(rounds(health.Seen(HANGS), 2000)) if each.restarts]
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses[:4] == [4, 8, 16, 32]
    assert max(pauses) == pauses[-1] == RULES.longest_pause // 30


def test_after_a_restart_that_helped_the_pauses_begin_anew() -> None:
    memory = {health.KUBELET: health.Part(0, 3, 1_000_000)}
    well = health.Seen({})
    assert health.decide(well, memory, 1_000_100, RULES).memory[health.KUBELET].restarts == 3
    assert health.decide(well, memory, 1_000_480, RULES).memory[health.KUBELET].restarts == 0


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (health.Seen(HANGS, maintenance="a snapshot is brought back"), "a snapshot is brought back just now"),
        (health.Seen(HANGS, stopped=frozenset({health.KUBELET})), "somebody has stopped or disabled it"),
        (health.Seen(HANGS, disks={"/var/lib/etcd": 0.2}), "/var/lib/etcd is full"),
        (health.Seen(HANGS, load=38.0), "38 processes wait for each CPU"),
        (health.Seen({health.ETCD: "silent"}, absent=frozenset({health.ETCD})), "the kubelet starts it"),
        (health.Seen({health.API_SERVER: "silent"}, unhealthy={health.ETCD: "has no leader"}), "etcd comes first"),
    ],
)
def test_what_a_restart_would_not_help_is_only_said(seen: health.Seen, why: str) -> None:
    outcome = rounds(seen, 4)[-1]
    assert not outcome.restarts
    assert any(why in line for line in outcome.warnings)


def test_what_stands_below_comes_first() -> None:
    outcome = rounds(
        health.Seen({health.CONTAINERD: "silent", health.KUBELET: "silent", health.API_SERVER: "silent"}), 3
    )[-1]
    assert list(outcome.restarts) == [health.CONTAINERD]
    assert [line for line in outcome.warnings if "not restarted: containerd comes first" in line] == list(
        outcome.warnings
    )


def test_disks_and_certificates_are_said() -> None:
    seen = health.Seen({}, disks={"/a": 9.0, "/b": 50.0}, certificates={"x.crt": 3.0, "y.crt": -1.0, "z.crt": 300.0})
    outcome = health.decide(seen, {}, 1, RULES)
    assert not outcome.healthy
    assert [line.split(";")[0] for line in outcome.warnings] == [
        "/a has 9 % free",
        "x.crt ends in 3 days",
        "y.crt has ended",
    ]


@given(st.lists(st.sampled_from([*health.ORDER, ""]), max_size=60))
def test_no_part_is_restarted_twice_within_its_pause(bad: list[str]) -> None:
    memory: dict[str, health.Part] = {}
    last: dict[str, int] = {}
    for number, part in enumerate(bad):
        now = 1_000_000 + 30 * number
        outcome = health.decide(health.Seen({part: "silent"} if part else {}), memory, now, RULES)
        memory = dict(outcome.memory)
        for name in outcome.restarts:
            assert name not in last or now - last[name] >= RULES.pause
            last[name] = now


@pytest.mark.parametrize("found", [None, [], {"etcd": 1}, {"etcd": {"bad": "x"}}])
def test_a_memory_that_cannot_be_read_is_forgotten(found: object) -> None:
    assert health.remembered(found) == {}


def test_a_memory_is_read_as_it_was_written() -> None:
    memory = {health.ETCD: health.Part(1, 2, 3)}
    assert health.remembered(json.loads(json.dumps(health.noted(memory)))) == memory


def test_a_warning_is_said_once_and_then_every_hour() -> None:
    first = watching.news(["/a has 9 % free"], {}, 1000.0)
    assert list(first.values()) == [1000.0]
    assert list(watching.news(["/a has 8 % free"], first, 1030.0).values()) == [1000.0]
    assert list(watching.news(["/a has 8 % free"], first, 4600.0).values()) == [4600.0]
    assert watching.news([], first, 1030.0) == {}


@pytest.mark.parametrize(("until", "said"), [(2000, "an upgrade"), (900, "")])
def test_maintenance_ends_by_itself(tmp_path: Path, until: int, said: str) -> None:
    path = tmp_path / "maintenance.json"
    path.write_text(json.dumps({"why": "an upgrade", "until": until}))
    assert watching.maintenance(1000, path) == said


def test_rules_are_the_roles(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    assert watching.rules(path) == health.Rules()
    path.write_text('{"rounds": 5, "pause": 1}')
    assert watching.rules(path) == health.Rules(rounds=5, pause=1)
    path.write_text('{"round": 5}')
    with pytest.raises(KeepingError, match="writes it anew"):
        watching.rules(path)


class Metrics(http.server.BaseHTTPRequestHandler):
    """etcd's metrics and health: what the server's attributes say."""

    def do_GET(self) -> None:
        leader, status = self.server.says  # type: ignore[attr-defined]
        self.send_response(200 if self.path == "/metrics" else status)
        self.end_headers()
        self.wfile.write(f"# HELP\netcd_server_has_leader {leader}\n".encode())

    def log_message(self, *_arguments: object) -> None:
        return


@pytest.fixture
def etcd(host: Host) -> Iterator[http.server.HTTPServer]:
    """An etcd that answers at the member's metrics URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as server:
        server.says = (1, 200)  # type: ignore[attr-defined]
        path = host.manifests / "etcd.yaml"
        metrics = f"    - --listen-metrics-urls=http://127.0.0.1:{server.server_port}\n    image:"
        path.write_text(path.read_text().replace("    image:", metrics))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("says", "unhealthy"), [((1, 200), ""), ((0, 503), "has no leader: too few"), ((1, 503), "is not healthy: 503")]
)
def test_an_etcd_without_a_leader_answers_and_is_not_well(
    host: Host, etcd: http.server.HTTPServer, says: tuple[int, int], unhealthy: str
) -> None:
    etcd.says = says  # type: ignore[attr-defined]
    trouble, said = watching.Watcher(host.root)._etcd(watching.member.read(host.root))
    assert trouble == ""
    assert said.startswith(unhealthy)
    assert bool(said) is bool(unhealthy)


def test_an_etcd_that_is_gone_does_not_answer(host: Host) -> None:
    trouble, said = watching.Watcher(host.root)._etcd(watching.member.read(host.root))
    assert trouble.startswith("its /metrics says nothing")
    assert said == ""


def test_a_process_is_known_by_its_arguments(host: Host, tmp_path: Path) -> None:
    program = tmp_path / "kube-apiserver"
    program.symlink_to(sys.executable)
    port = next(line for line in (host.manifests / "kube-apiserver.yaml").read_text().split() if "secure-port" in line)
    rest = ["--advertise-address=127.0.0.1", "--encryption-provider-config=/etc/kubernetes/encryption.yaml", port]
    code = ["-c", "import sys; print(flush=True); sys.stdin.read()"]
    (host.root / "proc").symlink_to("/proc")
    processes = [
        subprocess.Popen([program, *code, *given], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for given in (rest, rest[:2])
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        watcher = watching.Watcher(host.root)
        assert watcher.processes("kube-apiserver") == [processes[0].pid]
        watcher.restart("kube-apiserver")
        assert processes[0].wait(10) < 0
        assert processes[1].poll() is None
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_certificates_are_read_again_when_they_have_changed(host: Host) -> None:
    watcher = watching.Watcher(host.root)
    days = watcher._certificates(watching.time.time())
    assert all(0 < each <= 1 for each in days.values())
    assert len(days) == 2
    path = host.root / "etc/kubernetes/pki/ca.crt"
    watcher.ends[str(path)] = (path.stat().st_mtime, 0.0)
    assert min(watcher._certificates(1.0).values()) < 0
    os.utime(path, (1, 1))
    assert min(watcher._certificates(1.0).values()) > 0


@pytest.mark.parametrize("kind", ["rsa", "ec", "ed25519"])
def test_a_certificates_end_is_the_librarys(kind: str) -> None:
    pem = make_authority(kind).pem
    assert validity.ends(pem) == x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc.timestamp()


@given(st.binary(max_size=300))
def test_what_is_no_certificate_is_said_in_one_line(content: bytes) -> None:
    text = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(content).decode()}\n-----END CERTIFICATE-----\n"
    with pytest.raises(KeepingError, match="cannot be read"):
        validity.ends(text)


def test_the_role_puts_every_file_of_the_package_on_members() -> None:
    root = Path(__file__).parents[3]
    given = yaml.safe_load((root / "roles/runtime_controller/vars/main.yml").read_text())
    named = {each["path"]: each["files"] for each in given["__runtime_controller_keeping_sources"]}
    there = {path.name for path in (root / "plugins/module_utils/kubernetes_keeping").glob("*.py")}
    # A restore runs by a module, which brings its own.
    assert set(named["kubernetes_keeping"]) == there - {"restoring.py"}
