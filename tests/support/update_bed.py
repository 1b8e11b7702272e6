"""Hosts for whole playbooks without virtual machines: namespaces with their own /etc, /run and /var, and a stub VMM.

Each host is a mount, network and PID namespace over the machine's own files (overlayfs); Ansible enters it by its
become method. `client` is a network namespace that reaches them all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
_PYTHON = "/usr/local/bin/bed-python"
_OVERLAID = ("/etc", "/usr/local", "/usr/bin", "/usr/sbin", "/var/lib", "/var/log")
#: Ends what it starts; a PID namespace ends with its first process.
_HOST = """
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
for path in {paths}; do
    mkdir -p "$1$path/upper" "$1$path/work"
    mount -t overlay overlay -o "lowerdir=$path,upperdir=$1$path/upper,workdir=$1$path/work" "$path"
done
# The machine's own runtimes are covered, never touched.
for path in /run /etc/vllmd /var/lib/vllmd /usr/local/lib/vllmd; do
    mkdir -p "$path"
    mount -t tmpfs tmpfs "$path"
done
ip link set lo up
echo ready
exec sleep infinity
"""
_ENTER = """#!/bin/sh
# What Ansible's become gives beside the command itself is for sudo.
while [ "$1" != /bin/sh ]; do shift; done
exec nsenter --target {pid} --mount --net --pid --root=/proc/{pid}/root --wd=/ -- "$@"
"""
_MANIFEST = {
    "apiVersion": "vllmd.com/v1alpha1",
    "kind": "Runtime",
    "metadata": {"name": "stub"},
    # Every address of the host, because the client is not on it.
    "spec": {
        "model": {"name": "m", "source": "local", "repository": "m"},
        "resources": {"accelerator_count": 0, "cpu": 1, "memory": "256Mi"},
        "image": {"name": "stub"},
        "network": {"mode": "user", "forward": [{"host_address": "0.0.0.0", "host_port": 8000}]},  # noqa: S104
    },
}


def bzimage() -> bytes:
    """Return what the launcher takes for a kernel (Documentation/arch/x86/boot.rst)."""
    kernel = bytearray(0x400)
    kernel[0x1FE:0x200] = b"\x55\xaa"
    kernel[0x202:0x206] = b"HdrS"
    kernel[0x211] = 1
    return bytes(kernel)


class Bed:
    """``names``: the hosts. Use it as a context manager."""

    def __init__(self, directory: Path, *names: str) -> None:
        self.directory, self.names = directory, names
        self.addresses = {name: f"198.51.100.{4 * index + 2}" for index, name in enumerate(names)}
        self.manifest: dict[str, Any] = json.loads(json.dumps(_MANIFEST))
        self.variables: dict[str, Any] = {}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._pids: dict[str, int] = {}

    def __enter__(self) -> Bed:
        try:
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def publish(self, version: str, **behaviour: Any) -> None:
        """Publish an image on every host whose engine behaves so, and make it the latest."""
        disk = json.dumps({"name": version, **behaviour}).encode()
        contents = {"system.raw": disk.ljust(1 << 20, b"\0"), "kernel": bzimage(), "initrd": b"initrd"}
        manifest = {
            "schema_version": 1,
            "name": "stub",
            "version": version,
            "profile": "cpu",
            "debian": {},
            "created": "2026-01-01T00:00:00Z",
            "inputs_digest": f"sha256:{hashlib.sha256(version.encode()).hexdigest()}",
            "inputs": {},
            "elements": [],
            "files": {
                name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
                for name, content in contents.items()
            },
            "packages": {},
            "wheels": {},
            "models": [],
            "cmdline": "console=ttyS0",
            "kernel_release": "6.12.0",
        }
        made = self.directory / version
        made.mkdir()
        for name, content in {**contents, "manifest.json": json.dumps(manifest).encode()}.items():
            (made / name).write_bytes(content)
        store = "/var/lib/vllmd/images/stub"
        for host in self.names:
            self.inside(host, "mkdir", "-p", store)
            self.inside(host, "cp", "-r", str(made), f"{store}/{version}")
            self.inside(host, "ln", "-sfn", version, f"{store}/latest")

    def command(self, where: str, *command: str) -> list[str]:
        """Return the command that runs in a host, or in the network of ``client``."""
        pid = self._pids[where]
        spaces = ["--net"] if where == "client" else ["--mount", "--net", "--pid"]
        return ["nsenter", "--target", str(pid), *spaces, "--", *command]

    def inside(self, where: str, *command: str, check: bool = True) -> str:
        """Run a command in a host or in the network of ``client``, and return what it prints."""
        done = subprocess.run(self.command(where, *command), capture_output=True, text=True, check=False, timeout=60)
        assert not check or done.returncode == 0, f"{where}: {command}: {done.stderr}"
        return done.stdout

    def read(self, host: str, name: str) -> dict[str, Any] | None:
        """Return one of the records of replica ``stub`` on a host."""
        text = self.inside(host, "cat", f"/var/lib/vllmd/runtimes/stub/{name}.json", check=False)
        return json.loads(text) if text else None

    def image_running(self, host: str) -> str:
        """Return the version that a host's engine answers with; empty when it does not answer."""
        program = "import json,sys,urllib.request as u; " + (
            "r=u.Request('http://127.0.0.1:8000/v1/completions', b'{}', {'Content-Type':'application/json'}); "
            "print(json.load(u.urlopen(r, timeout=5))['system_fingerprint'])"
        )
        return self.inside(host, "python3", "-c", program, check=False).strip()

    def play(self, name: str, *arguments: str, **variables: Any) -> tuple[list[str], dict[str, str]]:
        """Return the command that runs a playbook on all hosts, and its environment."""
        manifest = self.directory / "runtime.yaml"
        manifest.write_text(json.dumps(self.manifest))
        given = {"vllmd_runtime_manifests": str(manifest), **self.variables, **variables}
        command = [shutil.which("ansible-playbook") or f"{Path(sys.executable).parent}/ansible-playbook"]
        command += [str(ROOT / "playbooks" / f"{name}.yml"), "-i", str(self.directory / "hosts.json")]
        command += ["-e", json.dumps(given), *arguments]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "default"}
        environment["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / "collection")
        environment["ANSIBLE_BECOME_ALLOW_SAME_USER"] = "true"  # root becomes root of a host
        return command, environment

    def run(self, name: str, *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        """Run a playbook to its end."""
        command, environment = self.play(name, *arguments, **variables)
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=600, cwd=ROOT
        )

    def kill_after(self, mark: str, name: str, **variables: Any) -> None:
        """Run a playbook and kill it, with all that it started on this side, when its output has ``mark``."""
        command, environment = self.play(name, **variables)
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
        )
        assert process.stdout is not None
        seen = []
        try:
            for line in process.stdout:
                seen.append(line)
                if mark in line:
                    return
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise AssertionError(f"{mark!r} never came: {''.join(seen)[-3000:]}")

    def _build(self) -> None:
        self._start(
            "client", ["unshare", "--net", "--", "sh", "-c", "ip link set lo up; echo ready; exec sleep infinity"]
        )
        hosts = {}
        script = _HOST.format(paths=" ".join(_OVERLAID))
        for index, name in enumerate(self.names):
            area = self.directory / name
            area.mkdir()
            spaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
            self._start(name, [*spaces, "sh", "-c", script, "sh", str(area)])
            pid = self._pids[name]
            ends = ("ip", "link", "add", f"host{index}", "type", "veth", "peer", "name", "eth0", "netns", str(pid))
            self.inside("client", *ends)
            self.inside("client", "ip", "address", "add", f"198.51.100.{4 * index + 1}/30", "dev", f"host{index}")
            self.inside("client", "ip", "link", "set", f"host{index}", "up")
            self.inside(name, "ip", "address", "add", f"{self.addresses[name]}/30", "dev", "eth0")
            self.inside(name, "ip", "link", "set", "eth0", "up")
            vmm = self.directory / "qemu-system-x86_64"
            vmm.write_text("#!/usr/bin/python3\n" + (ROOT / "tests/support/stub_qemu.py").read_text())
            vmm.chmod(0o755)
            self.inside(name, "cp", str(vmm), "/usr/bin/qemu-system-x86_64")
            # An interpreter that is only there: whatever goes wrong, nothing of a play happens on the machine itself.
            self.inside(name, "ln", "-s", sys.executable, _PYTHON)
            enter = self.directory / f"enter-{name}"
            enter.write_text(_ENTER.format(pid=pid))
            enter.chmod(0o755)
            hosts[name] = {"ansible_become_exe": str(enter)}
        common = {
            "ansible_connection": "local",
            "ansible_become": True,
            "ansible_become_method": "ansible.builtin.sudo",
            "ansible_become_flags": "",
            "ansible_python_interpreter": _PYTHON,
            "ansible_remote_tmp": str(self.directory / "tmp"),
            "hypervisor_environment": {"VLLMD_HYPERVISOR_ACCELERATION": "tcg"},
            "vllmd_health_timeout": 20,
            "vllmd_drain_timeout": 30,
        }
        inventory = {"all": {"vars": common, "children": {"hypervisors": {"hosts": hosts}}}}
        (self.directory / "hosts.json").write_text(json.dumps(inventory))

    def _start(self, name: str, command: list[str]) -> None:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._processes[name] = process
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        self._pids[name] = process.pid if name == "client" else _child(process.pid)


def _child(pid: int) -> int:
    """Return the first process of the PID namespace that ``pid``, an unshare, made."""
    for _ in range(100):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.05)
    raise AssertionError("unshare made no process")
