#!/usr/bin/env python3
"""Measure how long one host takes to become a ready node, by phase and beside the same steps by hand; and many nodes.

    molecule converge -s kubernetes
    benchmarks/join.py [--runs 3] [--node node2] [--nodes 50] [--keep DIRECTORY]

Role and hand take turns on one host of the test bed, which leaves before each join, its packages of Kubernetes removed.
By hand is one shell script over ssh that does what the role does: packages from the same repository, held; modules and
kernel settings; containerd's configuration; the kubelet's; a token, kubeadm join with the pin, the node ready and
labelled, the token revoked. It checks nothing first, and is written for this host alone. Then nodes without kubelets
are registered by the API, each with a record and with labels that the role's code makes of a server with eight
accelerators. Writes build/benchmarks/join.md, join.json and join.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "collection")]

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import labels  # noqa: E402  # needs it
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl  # noqa: E402
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval import records, store  # noqa: E402
from tests.support.healthy_host import healthy_host  # noqa: E402

BUDGET = 0.20
PHASES = ("preflight", "packages", "configuration", "join", "verify")
TASKS = ROOT / "roles/kubernetes_node/tasks"
SCENARIO = ROOT / "molecule/kubernetes"
SIMULATED = "simulated-"
MEMBER = "control1"
HAND = ROOT / "benchmarks/join_by_hand.sh"


class BenchmarkError(Exception):
    """Why it cannot be measured, in one line."""


@dataclass(frozen=True)
class Bed:
    """The test bed's hosts: where it has its files, and each host's address."""

    directory: Path
    addresses: dict[str, str]

    def ssh(self, host: str, command: str, stdin: str = "") -> str:
        """Return what a command says on a host. Raises BenchmarkError."""
        known = f"UserKnownHostsFile={self.directory / 'known_hosts'}"
        options = ["-q", "-i", str(self.directory / "identity"), "-o", known, "-o", "StrictHostKeyChecking=yes"]
        return run(["ssh", *options, f"root@{self.addresses[host]}", command], stdin=stdin)

    def inventory(self, directory: Path) -> Path:
        """Write the inventory of these hosts; return its file."""
        common = f"-o UserKnownHostsFile={self.directory / 'known_hosts'} -o ControlMaster=auto -o ControlPersist=60s"
        hosts: dict[str, Any] = {
            name: {
                "ansible_host": address,
                "ansible_user": "root",
                "ansible_ssh_private_key_file": str(self.directory / "identity"),
                "ansible_ssh_common_args": common,
                "ansible_python_interpreter": "/usr/bin/python3",
            }
            for name, address in self.addresses.items()
        }
        groups: dict[str, Any] = {
            "control_plane": {"hosts": {MEMBER: {}}},
            "nodes": {"hosts": {name: {} for name in hosts if name.startswith("node")}},
        }
        path = directory / "inventory.yml"
        path.write_text(yaml.safe_dump({"all": {"hosts": hosts, "children": groups}}), encoding="utf-8")
        return path


def run(command: list[str], stdin: str = "", **environment: str) -> str:
    """Return a program's output. Raises BenchmarkError with its last words."""
    done = subprocess.run(
        command, check=False, input=stdin, capture_output=True, text=True, env={**os.environ, **environment}
    )
    if done.returncode:
        words = (done.stdout + done.stderr).strip().splitlines()[-12:]
        raise BenchmarkError(f"{command[0]} ended with {done.returncode}: {' / '.join(words)}")
    return done.stdout


def bed() -> Bed:
    """Return the hosts that molecule made. Raises BenchmarkError."""
    given = os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY")
    directory = Path(given) if given else Path.home() / ".ansible/tmp/molecule" / "kubernetes"
    config = directory / "instance_config.yml"
    if not config.is_file():
        raise BenchmarkError(
            f"{config} is not there: set MOLECULE_EPHEMERAL_DIRECTORY to a directory, and make the hosts with "
            "'molecule converge -s kubernetes'"
        )
    hosts = yaml.safe_load(config.read_text(encoding="utf-8"))
    return Bed(directory, {each["instance"]: each["address"] for each in hosts})


def play(hosts: Bed, work: Path, node: str, **variables: Any) -> tuple[float, Path]:
    """Run the scenario's playbook on one node; return seconds and the file of its events."""
    events = work / f"events-{time.monotonic_ns()}.jsonl"
    command = ["ansible-playbook", f"--inventory={hosts.inventory(work)}", f"--limit={node}"]
    command += [f"--extra-vars={json.dumps(variables)}", str(SCENARIO / "converge.yml")]
    began = time.monotonic()
    run(
        command,
        VLLMD_EVENTS_PATH=str(events),
        ANSIBLE_CALLBACKS_ENABLED="vllmd.platform.events",
        ANSIBLE_COLLECTIONS_PATH=str(ROOT / "collection"),
        ANSIBLE_PIPELINING="1",
        ANSIBLE_STDOUT_CALLBACK="default",
        MOLECULE_SCENARIO_DIRECTORY=str(SCENARIO),
        MOLECULE_EPHEMERAL_DIRECTORY=str(hosts.directory),
        MOLECULE_PROJECT_DIRECTORY=str(ROOT),
    )
    return time.monotonic() - began, events


def phase_of(tasks: Path = TASKS) -> dict[str, str]:
    """Return the phase of each task of the role by the task's name; a file of tasks is a phase."""
    found: dict[str, str] = {}
    for phase in (*PHASES, "kubelet_configuration"):
        pending = list(yaml.safe_load((tasks / f"{phase}.yml").read_text(encoding="utf-8")))
        while pending:
            task = pending.pop()
            found[task["name"]] = "join" if phase == "kubelet_configuration" else phase
            pending += [each for part in ("block", "rescue", "always") for each in task.get(part, [])]
    return found


def split(events: Path, known: dict[str, str]) -> dict[str, float]:
    """Return seconds by phase, from one task's beginning to the next; handlers belong to the phase before them."""
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    marks = [(each["time"], each.get("name", "")) for each in lines if each["event"] in ("start", "task", "stats")]
    taken = {"playbook": 0.0, **dict.fromkeys(PHASES, 0.0)}
    phase = "playbook"
    for (began, name), (ended, _next) in pairwise(marks):
        phase = known.get(name, phase)
        taken[phase] += ended - began
    return taken


def noted_pin(hosts: Bed) -> str:
    """Return the pin of the cluster's authority, which an operator has in the inventory."""
    made = "openssl x509 -pubkey -noout -in /etc/kubernetes/pki/ca.crt | openssl pkey -pubin -outform DER | sha256sum"
    return f"sha256:{hosts.ssh(MEMBER, made).split()[0]}"


def by_hand(hosts: Bed, node: str, pin: str) -> dict[str, float]:
    """Join the node by the script; return seconds by step. Raises BenchmarkError."""
    admin = "--kubeconfig=/etc/kubernetes/admin.conf"
    began = time.monotonic()
    token = hosts.ssh(MEMBER, f"kubeadm {admin} token create --ttl=15m").split()[-1]
    record = records.Identity(node, addresses=(hosts.addresses[node],), token_id=token.partition(".")[0])
    document = json.dumps(records.config_map(records.Record(node, records.checked(record))))
    hosts.ssh(MEMBER, f"kubectl {admin} apply --filename=-", stdin=document)
    asked = time.monotonic() - began
    names = {
        "NAME": node,
        "ADDRESS": hosts.addresses[node],
        "ENDPOINT": f"{hosts.addresses[MEMBER]}:6443",
        "TOKEN": token,
        "PIN": pin,
        "VERSION": (hosts.directory / "kubernetes.version").read_text(encoding="utf-8").strip(),
        "KEY": (hosts.directory / "kubernetes.asc").read_text(encoding="utf-8"),
    }
    given = "".join(f"{name}={json.dumps(value)}\n" if name != "KEY" else "" for name, value in names.items())
    given += f"KEY=$(cat <<'END'\n{names['KEY']}\nEND\n)\n"
    said = hosts.ssh(node, "bash -euo pipefail -s", stdin=given + HAND.read_text(encoding="utf-8"))
    began = time.monotonic()
    hosts.ssh(MEMBER, f"kubeadm {admin} token delete {token.partition('.')[0]}")
    steps = [line.split() for line in said.splitlines() if line.startswith("STEP ")]
    taken = {name: float(seconds) for _step, name, seconds in steps}
    taken["join"] += asked + time.monotonic() - began
    return taken


def leave(hosts: Bed, work: Path, node: str) -> None:
    """Let the node leave, without its packages; what the cluster remembers of its pods for a minute goes, too.

    A kubelet that finds pods of its predecessor starts them before it knows the services, and tries again half a
    minute later.
    """
    play(hosts, work, node, kubernetes_node_state="left", kubernetes_node_remove_packages=True)
    admin = "kubectl --kubeconfig=/etc/kubernetes/admin.conf"
    of_node = f"--all-namespaces --field-selector=spec.nodeName={node}"
    hosts.ssh(MEMBER, f"{admin} delete pods {of_node} --grace-period=0 --force 2>/dev/null")


def simulate(hosts: Bed, work: Path, count: int) -> list[dict[str, float]]:
    """Register nodes one after the other; return for each how many there are, and the seconds that it took by step."""
    path = work / "admin.conf"
    path.touch(mode=0o600)
    path.write_text(hosts.ssh(MEMBER, "cat /etc/kubernetes/admin.conf"), encoding="utf-8")
    programs = Path((hosts.directory / "kubernetes.programs").read_text(encoding="utf-8").strip())
    kubectl = Kubectl(str(programs / "kubectl"), str(path))
    place, host, rows = store.Store(kubectl), healthy_host(), []
    for number in range(1, count + 1):
        name = f"{SIMULATED}{number:03d}"
        began = time.monotonic()
        wanted = labels.hardware_labels(host)
        rendered = time.monotonic()
        identity = records.Identity(name, addresses=(f"192.0.2.{number}",), token_id="abcdef")  # noqa: S106 -- no secret
        place.write(place.read(name), records.registered(None, identity))
        registered = time.monotonic()
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"unschedulable": True}}
        kubectl.must("cannot make a node", "create", "--filename", "-", stdin=json.dumps(node))
        found = kubectl.node(name) or {}
        changed = labels.changes(found["metadata"].get("labels", {}), wanted, [])
        kubectl.must("cannot label it", "label", "node", name, *(f"{key}={value}" for key, value in changed.items()))
        ended = time.monotonic()
        rows.append(
            {
                "nodes": number,
                "render": rendered - began,
                "register": registered - rendered,
                "label": ended - registered,
                "total": ended - began,
            }
        )
    return rows


def forget(hosts: Bed, count: int) -> None:
    """Remove the simulated nodes and what is registered of them."""
    names = " ".join(f"{SIMULATED}{number:03d}" for number in range(1, count + 1))
    admin = "kubectl --kubeconfig=/etc/kubernetes/admin.conf delete --ignore-not-found"
    hosts.ssh(MEMBER, f"{admin} nodes {names}; {admin} --namespace={records.NAMESPACE} configmaps {names}")


def svg_chart(rows: list[dict[str, float]]) -> str:
    """Return a chart: nodes to the right, seconds for one more node up."""
    width, height, left, bottom = 640, 300, 60, 40
    most, longest = rows[-1]["nodes"], max(row["total"] for row in rows)

    def at(nodes: float, seconds: float) -> str:
        x = left + (width - left - 100) * nodes / most
        return f"{x:.1f},{height - bottom - (height - bottom - 20) * seconds / longest:.1f}"

    parts = []
    for step in range(5):
        x, y = at(0, longest * step / 4).split(",")
        parts.append(f'<path d="M{x} {y}H{width - 100}" stroke="#8886"/>')
        parts.append(f'<text x="{float(x) - 6}" y="{y}" text-anchor="end">{longest * step / 4:.2f} s</text>')
    for key, dash in (("total", ""), ("register", "7 4"), ("label", "2 3")):
        points = " ".join(at(row["nodes"], row[key]) for row in rows)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="#555" stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        x, y = at(most, rows[-1][key]).split(",")
        parts.append(f'<text x="{float(x) + 6}" y="{y}">{key}</text>')
    parts.append(f'<text x="{left}" y="{height - 6}">nodes that there are, to {most:.0f}; seconds for one more</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'style="font:13px sans-serif;background:#fff">{"".join(parts)}</svg>\n'
    )


def report(role: list[dict[str, float]], hand: list[dict[str, float]], rows: list[dict[str, float]]) -> str:
    """Return the tables."""
    phases = ("playbook", *PHASES)
    middle = {name: statistics.median(each[name] for each in role) for name in phases}
    manual = {name: statistics.median(each.get(name, 0.0) for each in hand) for name in phases}
    total, plain = (statistics.median(sum(each.values()) for each in taken) for taken in (role, hand))
    lines = ["| phase | by the role, s | by hand, s |", "|---|---|---|"]
    lines += [f"| {name} | {middle[name]:.1f} | {manual[name]:.1f} |" for name in phases]
    lines.append(f"| **to ready** | **{total:.1f}** | **{plain:.1f}** |")
    verdict = "within" if total <= plain * (1 + BUDGET) else "over"
    lines += [
        "",
        f"role / by hand: {total / plain:.2f}, {verdict} the budget of {1 + BUDGET:.2f} ({len(role)} runs each).",
    ]
    lines.append(f"Ansible's share, what the role takes beyond the same steps by hand: {1 - plain / total:.0%}.")
    tenth = max(1, len(rows) // 10)
    first, last = (statistics.median(row["total"] for row in part) for part in (rows[:tenth], rows[-tenth:]))
    lines += [
        "",
        f"{len(rows)} simulated nodes: {sum(row['total'] for row in rows):.1f} s; one more takes {first:.2f} s",
    ]
    lines[-1] += (
        f" at the beginning and {last:.2f} s at the end; labels are made in {rows[-1]['render'] * 1000:.1f} ms."
    )
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    return "\n".join([*lines, "", f"Load of this machine at the end: {load}, {os.cpu_count()} CPUs."]) + "\n"


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--node", default="node2", help="the host that leaves and joins")
    parser.add_argument("--nodes", type=int, default=50, help="simulated nodes")
    parser.add_argument("--keep", type=Path, default=ROOT / "build/benchmarks", help="where the results go")
    given = parser.parse_args()
    given.keep.mkdir(parents=True, exist_ok=True)
    role: list[dict[str, float]] = []
    hand: list[dict[str, float]] = []
    try:
        hosts, known = bed(), phase_of()
        pin = noted_pin(hosts)
        for _run in range(given.runs):
            leave(hosts, given.keep, given.node)
            hand.append(by_hand(hosts, given.node, pin))
            print(f"by hand {sum(hand[-1].values()):.1f} s", flush=True)
            leave(hosts, given.keep, given.node)
            total, events = play(hosts, given.keep, given.node, kubernetes_node_ca_pins=[pin])
            role.append(split(events, known))
            role[-1]["playbook"] += total - sum(role[-1].values())
            print(f"by the role {total:.1f} s", flush=True)
            events.unlink()
        try:
            rows = simulate(hosts, given.keep, given.nodes)
        finally:
            forget(hosts, given.nodes)
    except BenchmarkError as error:
        print(f"join: {error}", file=sys.stderr)
        return 2
    finally:
        for name in ("inventory.yml", "admin.conf", *(each.name for each in given.keep.glob("events-*.jsonl"))):
            (given.keep / name).unlink(missing_ok=True)
    text = report(role, hand, rows)
    (given.keep / "join.md").write_text(text, encoding="utf-8")
    (given.keep / "join.json").write_text(json.dumps({"role": role, "hand": hand, "nodes": rows}), encoding="utf-8")
    (given.keep / "join.svg").write_text(svg_chart(rows), encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
