#!/usr/bin/env python3
"""Kill parts of a test cluster at random, and see that every node comes back and no object is lost.

    tests/system/kubernetes_chaos.py INVENTORY [--minutes 10] [--seed N] [--only KIND[,KIND]]

INVENTORY is that of a molecule scenario that stands (`molecule converge -s kubernetes_control_plane`), as root on the
same machine; its hosts are killed by taking their processes away, as a power cut does. Meanwhile objects are written
all the time: each write that was acknowledged has to be there at the end, and everything that was there before.
Prints its seed; the same seed gives the same choices.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import testinfra

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "molecule/shared/module_utils"))
import nspawn_bed as bed  # noqa: E402 -- needs the path above

MEMBERS = ("kubernetes_control_plane", "control_plane")
NODES = ("kubernetes_nodes", "nodes")
KUBECTL = "kubectl --kubeconfig=/etc/kubernetes/admin.conf --request-timeout=15s"
NAMESPACE = "chaos"
#: Objects that come and go by themselves.
VOLATILE = {
    *("bindings", "certificatesigningrequests.certificates.k8s.io", "componentstatuses", "controllerrevisions.apps"),
    *("endpoints", "endpointslices.discovery.k8s.io", "events", "events.events.k8s.io", "jobs.batch", "pods"),
    *("leases.coordination.k8s.io", "nodes.metrics.k8s.io", "pods.metrics.k8s.io", "ipaddresses.networking.k8s.io"),
}
PROCESSES = {"apiserver": "kube-apiserver", "etcd": "etcd", "controllers": "kube-controller-manager"}
UNITS = {"kubelet": "kubelet", "containerd": "containerd", "approver": "vllmd-node-approver"}
BACK_SECONDS = 600


class ChaosError(Exception):
    """One line for a person: what was lost or did not come back."""


def inventory(path: Path) -> dict[str, list[str]]:
    """Hosts by group."""
    listed = subprocess.run(["ansible-inventory", "-i", path, "--list"], check=True, capture_output=True, text=True)
    return {name: group.get("hosts", []) for name, group in json.loads(listed.stdout).items()}


class Host:
    """A host of the cluster, by ssh, and from outside as a container of this machine."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.connection = testinfra.get_host(f"ansible://{name}", ansible_inventory=str(path))
        address = self.connection.backend.get_variables()["ansible_host"]
        records = (bed.read_record(each) for each in bed.STATE_ROOT.glob("*/host.json"))
        found = [record for record in records if record.get("address") == address]
        if not found:
            raise ChaosError(f"{name} at {address} is no container of this machine; start the scenario here, as root")
        self.machine, self.address = str(found[0]["machine"]), address

    def run(self, command: str) -> bool:
        """Run a command; whether it succeeded. A host that is down is none."""
        try:
            return bool(self.connection.run(command).rc == 0)
        except RuntimeError:
            return False

    def cut(self, seconds: float) -> None:
        """Take the power away for some seconds, then start the very same container again."""
        record_path = bed.STATE_ROOT / self.machine / "host.json"
        record = bed.read_record(record_path)
        before = Path(f"/proc/{record['pid']}")
        command = (before / "cmdline").read_text(encoding="utf-8").split("\0")[:-1]
        pairs = (before / "environ").read_text(encoding="utf-8").split("\0")[:-1]
        bed.kill_group(self.machine)
        bed.stop_process(record, 0.0)
        time.sleep(seconds)
        bed.remove_cgroups(self.machine)
        console = record_path.with_name("console.log")
        with console.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=dict(pair.partition("=")[::2] for pair in pairs),
                preexec_fn=lambda: bed.enter_own_cgroup(self.machine),  # noqa: PLW1509 - it only writes to files
            )
        bed.write_record(record_path, {**record, "pid": process.pid, "start_ticks": bed.start_ticks(process.pid)})
        bed.wait_for_ssh(lambda: process.poll() is None, self.address, 120, console)


@dataclass
class Cluster:
    """The cluster as an administrator sees it, through whichever member answers."""

    members: list[Host]

    def ask(self, arguments: str, stdin: str = "") -> str | None:
        """What kubectl prints; None when no member answers."""
        feed = f"printf %s {shlex.quote(stdin)} | " if stdin else ""
        for member in self.members:
            try:
                done = member.connection.run(f"{feed}{KUBECTL} {arguments}")
            except RuntimeError:
                continue
            if done.rc == 0:
                return str(done.stdout)
        return None

    def must(self, arguments: str, stdin: str = "", seconds: float = 120) -> str:
        """What kubectl prints, once it does. Raises ChaosError."""
        deadline = time.monotonic() + seconds
        while (said := self.ask(arguments, stdin)) is None:
            if time.monotonic() > deadline:
                raise ChaosError(f"'kubectl {arguments}' is not answered for {seconds:.0f} s")
            time.sleep(2)
        return said

    def objects(self) -> Counter[str]:
        """How many objects of each kind there are, without those that come and go by themselves."""
        kinds = set(self.must("api-resources --verbs=list --output=name").split()) - VOLATILE
        found: Counter[str] = Counter()
        for kind in sorted(kinds):
            listed = self.must(f"get {kind} --all-namespaces --output=name --ignore-not-found")
            found[kind] = len(listed.split())
        return found

    def not_ready(self) -> list[str]:
        """The nodes that are not ready; `API server` when nobody answers."""
        said = self.ask("get nodes --output=json")
        if said is None:
            return ["API server"]
        return [
            node["metadata"]["name"]
            for node in json.loads(said)["items"]
            if not any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"]["conditions"])
        ]


@dataclass
class Writer(threading.Thread):
    """Writes an object every half second; keeps the numbers of those that were acknowledged."""

    cluster: Cluster
    written: set[int] = field(default_factory=set)
    refused: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        number = 0
        while not self.ended.wait(0.5):
            number += 1
            command = f"--namespace={NAMESPACE} create configmap write-{number} --from-literal=number={number}"
            if self.cluster.ask(command) is None:
                self.refused += 1
            else:
                self.written.add(number)


def events(members: list[Host], nodes: list[Host]) -> list[tuple[str, Host]]:
    """Everything that can be killed, and where; the approver only where there is one."""
    found = [(kind, host) for host in members for kind in PROCESSES]
    for host in members + nodes:
        found += [(kind, host) for kind, unit in UNITS.items() if host.run(f"systemctl is-active --quiet {unit}")]
        found.append(("node", host))
    return found


def kill(kind: str, host: Host, chance: random.Random) -> None:
    """Kill one thing."""
    if kind == "node":
        host.cut(chance.uniform(1, 10))
    elif kind in PROCESSES:
        host.run(f"pkill --signal KILL --exact {PROCESSES[kind]}")
    else:
        host.run(f"systemctl kill --kill-who=main --signal=KILL {UNITS[kind]}")


def chaos(cluster: Cluster, known: list[tuple[str, Host]], minutes: float, chance: random.Random) -> Counter[str]:
    """Kill at random until the time is up; how often each kind was."""
    began, count = time.monotonic(), Counter[str]()
    while (elapsed := time.monotonic() - began) < 60 * minutes:
        # By kind first, or whatever there are most of would be killed most.
        kind = chance.choice(sorted({each for each, _host in known}))
        host = chance.choice([where for each, where in known if each == kind])
        pause = chance.uniform(3, 20)
        print(f"{elapsed:6.1f} s  {kind} on {host.name}", flush=True)
        kill(kind, host, chance)
        count[kind] += 1
        time.sleep(pause)
    return count


def settle(cluster: Cluster) -> float:
    """Wait until every node is ready, twice in a row; the seconds that it took. Raises ChaosError."""
    began, good = time.monotonic(), 0
    while good < 3:
        waiting = cluster.not_ready()
        good = 0 if waiting else good + 1
        if time.monotonic() - began > BACK_SECONDS:
            raise ChaosError(f"not ready after {BACK_SECONDS} s: {', '.join(waiting)}")
        time.sleep(3)
    return time.monotonic() - began


def compare(before: Counter[str], after: Counter[str], writer: Writer, names: set[str]) -> None:
    """Raise ChaosError when something is lost, or an acknowledged write is not there."""
    lost = {kind: (count, after[kind]) for kind, count in before.items() if after[kind] < count}
    if lost:
        said = ", ".join(f"{kind} {was} to {now}" for kind, (was, now) in sorted(lost.items()))
        raise ChaosError(f"objects are lost: {said}")
    missing = sorted(number for number in writer.written if f"configmap/write-{number}" not in names)
    if missing:
        raise ChaosError(f"{len(missing)} acknowledged writes are lost, the first is write-{missing[0]}")


def main() -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inventory", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--only", default="", help="kinds, separated by commas")
    options = parser.parse_args()
    print(f"seed {options.seed}: run again with --seed {options.seed}", flush=True)
    chance = random.Random(options.seed)  # noqa: S311 - chaos that can be had again
    try:
        groups = inventory(options.inventory)
        members = [Host(name, options.inventory) for group in MEMBERS for name in groups.get(group, [])]
        nodes = [Host(name, options.inventory) for group in NODES for name in groups.get(group, [])]
        if not members:
            raise ChaosError(f"{options.inventory} has no group {' or '.join(MEMBERS)}")
        cluster = Cluster(members)
        settle(cluster)
        known = events(members, nodes)
        wanted = set(options.only.split(",")) - {""}
        known = [each for each in known if not wanted or each[0] in wanted]
        if not known:
            raise ChaosError(f"--only {options.only}: nothing of that is here")
        cluster.must(f"create namespace {NAMESPACE}")
        before = cluster.objects()
        writer = Writer(cluster)
        writer.start()
        count = chaos(cluster, known, options.minutes, chance)
        writer.ended.set()
        writer.join()
        seconds = settle(cluster)
        after = cluster.objects()
        names = set(cluster.must(f"--namespace={NAMESPACE} get configmaps --output=name").split())
        compare(before, after, writer, names)
        cluster.must(f"delete namespace {NAMESPACE} --wait=false")
    except (ChaosError, bed.BedError, subprocess.CalledProcessError) as error:
        print(f"chaos: {error}; seed {options.seed}", file=sys.stderr)
        return 1
    killed = ", ".join(f"{kind} {times}" for kind, times in sorted(count.items()))
    print(f"killed {count.total()} times in {options.minutes:g} min: {killed}")
    print(f"every node was ready {seconds:.0f} s after the last one")
    print(
        f"objects before {before.total()}, after {after.total()}; {len(writer.written)} writes acknowledged meanwhile"
    )
    print(f"({writer.refused} were not), all of them there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
