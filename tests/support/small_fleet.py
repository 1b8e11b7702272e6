"""Two hosts on this machine, with a network namespace and directories of their own, and guests that boot in seconds.

The playbooks run as they are: launcher, QEMU and guests are real; systemd is not there, so the launcher runs detached.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from ansible_collections.vllmd.platform.plugins.module_utils import image_manifest, images
from tests.support.tiny_guest import CMDLINE, tiny_guest

ROOT = Path(__file__).parents[2]
# Each play of a playbook finds facts of a machine without systemd, whose user lives in the host's directory.
_FACTS = """\
- hosts: hypervisors
  gather_facts: false
  tasks:
    - ansible.builtin.set_fact:
        cacheable: true
        service_mgr: none
        user_dir: "{{ fleet_home }}"
        user_id: tester
        user_uid: 4711
        env: {XDG_RUNTIME_DIR: "{{ fleet_home }}/run"}
"""


def manifest(name: str, port: int, replicas: int = 1, most: int = 3, **spec: Any) -> dict[str, Any]:
    """Return a Runtime that the tiny guest serves on the port of its host."""
    return {
        "apiVersion": "vllmd.com/v1alpha1",
        "kind": "Runtime",
        "metadata": {"name": name},
        "spec": {
            "model": {"name": "tiny", "source": "local", "repository": "tiny"},
            "resources": {"accelerator_count": 0, "cpu": 1, "memory": "128Mi"},
            "scaling": {"minReplicas": replicas, "maxReplicas": most},
            "image": {"name": "tiny"},
            "network": {"mode": "user", "forward": [{"host_port": port}]},
            **spec,
        },
    }


class SmallFleet:
    """Hosts ``a`` and ``b``, an inventory, an image store; ends every guest when it is left."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.inventory = directory / "inventory"
        self.plan_file = self.inventory / "runtimes.plan.json"
        self.mounted: list[Path] = []
        self._namespaces: list[str] = []
        self.hosts = ("a", "b")

    def __enter__(self) -> SmallFleet:
        (self.inventory / "runtimes").mkdir(parents=True)
        for host in self.hosts:
            self._make_host(host)
        self._publish()
        self.write_inventory()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for host in self.hosts:
                (self.directory / f"{host}.gone").unlink(missing_ok=True)
            self.play("teardown")
        finally:
            for path in self.mounted:
                subprocess.run(["umount", str(path)], check=False)
            for name in self._namespaces:
                subprocess.run(["ip", "netns", "delete", name], check=False)

    def home(self, host: str) -> Path:
        """Return the directory that everything of a host is in."""
        return self.directory / host

    def _make_host(self, host: str) -> None:
        name = f"vllmd-{os.getpid()}-{host}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        self._namespaces.append(name)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        (self.home(host) / "run").mkdir(parents=True)
        interpreter = self.home(host) / "python"
        interpreter.write_text(f'#!/bin/sh\nexec ip netns exec {name} /usr/bin/python3 "$@"\n')
        interpreter.chmod(0o755)

    def _publish(self) -> None:
        guest = tiny_guest()
        store = self.directory / "store"
        partial = store / "tiny/.000000000000.partial-1"
        partial.mkdir(parents=True)
        for name in image_manifest.FILE_NAMES:
            source = {"kernel": guest.kernel, "initrd": guest.initrd}.get(name)
            (partial / name).write_bytes(source.read_bytes() if source else bytes(8192))
        facts = {
            "schema_version": 1,
            "profile": "cpu",
            "debian": {"release": "bookworm", "architecture": "amd64"},
            "elements": [],
            "packages": {},
            "wheels": {},
            "models": [],
            "cmdline": CMDLINE,
            "kernel_release": "6.1.0",
        }
        images.publish(partial, store, image_manifest.compose(partial, "tiny", {"a": "1"}, facts))

    def write_inventory(self, **variables: Any) -> None:
        """Write the inventory; ``variables`` go to all hosts."""
        everyone = {
            "ansible_connection": "vanishing",
            "vanishing_gone": f"{self.directory}/{{{{ inventory_hostname }}}}.gone",
            "ansible_python_interpreter": "{{ fleet_home }}/python",
            "fleet_home": f"{self.directory}/{{{{ inventory_hostname }}}}",
            "hypervisor_scope": "user",
            "hypervisor_environment": {"VLLMD_HYPERVISOR_ACCELERATION": "tcg", "VLLMD_HYPERVISOR_BACKEND": "qemu"},
            "vllmd_runtime_manifests": [f"{self.inventory}/runtimes"],
            "vllmd_runtimes_directory": "{{ fleet_home }}/runtimes",
            "runtime_assembler_store_dir": f"{self.directory}/store",
            "vllmd_health_timeout": 120,
            **variables,
        }
        inventory = {
            "all": {
                "vars": everyone,
                "children": {"hypervisors": {"hosts": {host: {} for host in self.hosts}}, "builders": {}},
            }
        }
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(inventory))

    def describe(self, *runtimes: dict[str, Any]) -> None:
        """Make these the only manifests."""
        for path in (self.inventory / "runtimes").iterdir():
            path.unlink()
        for each in runtimes:
            path = self.inventory / "runtimes" / f"{each['metadata']['name']}.yaml"
            path.write_text(yaml.safe_dump(each))

    def play(self, *names: str, options: tuple[str, ...] = (), **variables: Any) -> subprocess.CompletedProcess[str]:
        """Run playbooks; what happens stands in ``events.jsonl``."""
        (self.directory / "events.jsonl").unlink(missing_ok=True)
        return subprocess.run(
            self.command(*names, options=options, **variables),
            env=self.environment(),
            check=False,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def command(self, *names: str, options: tuple[str, ...] = (), **variables: Any) -> list[str]:
        """Return the command that runs playbooks."""
        facts = self.directory / "facts.yml"
        facts.write_text(_FACTS)
        command = [str(Path(sys.executable).with_name("ansible-playbook")), str(facts)]
        command += [str(ROOT / "playbooks" / f"{name}.yml") for name in names]
        return [*command, "-i", str(self.inventory), *options, "-e", json.dumps(variables)]

    def environment(self) -> dict[str, str]:
        """Return the environment variables of that command."""
        return {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collection"),
            "ANSIBLE_CONNECTION_PLUGINS": str(Path(__file__).parent / "connection"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACKS_ENABLED": "vllmd.platform.events",
            "VLLMD_EVENTS_PATH": str(self.directory / "events.jsonl"),
            "XDG_STATE_HOME": str(self.directory / "state"),
            "XDG_CONFIG_HOME": str(self.directory / "config"),
        }

    def start(self, options: tuple[str, ...] = (), **variables: Any) -> subprocess.CompletedProcess[str]:
        """Start what the plan's file says."""
        return self.play("start", options=options, vllmd_placements=self.placements(), **variables)

    def placements(self) -> list[dict[str, Any]]:
        """Return what the plan's file places."""
        found: list[dict[str, Any]] = json.loads(self.plan_file.read_text())["placements"]
        return found

    def placed(self) -> dict[str, list[str]]:
        """Return the replicas of each host by the plan's file."""
        return {host: [each["id"] for each in self.placements() if each["host"] == host] for host in self.hosts}

    def running(self) -> dict[str, list[str]]:
        """Return the replicas whose virtual machine runs, by host."""
        return {host: sorted(path.parent.name for path in self._pids(host)) for host in self.hosts}

    def _pids(self, host: str) -> list[Path]:
        found = []
        for path in (self.home(host) / "run/vllmd").glob("*/pid"):
            process = Path("/proc", path.read_text().strip(), "stat")
            if process.exists() and process.read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(path)
        return found

    def files(self, host: str) -> list[str]:
        """Return the names of what lies in the host's directory of runtimes."""
        directory = self.home(host) / "runtimes"
        return sorted(path.name for path in directory.iterdir()) if directory.exists() else []
