"""Playbook manifests as Ansible runs it: what is written, written again, taken away and left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import kubernetes_examples as examples

ROOT = examples.ROOT


class Inventory:
    """A directory with manifests, and what the playbook makes of them."""

    def __init__(self, root: Path) -> None:
        self.runtimes, self.out, self.config = root / "runtimes", root / "out", root / "ansible.cfg"
        self.runtimes.mkdir()
        self.config.touch()
        for name in ("smollm2", "qwen32b"):
            self.write(name, (examples.DATA / f"{name}.yaml").read_text())

    def write(self, name: str, text: str) -> None:
        (self.runtimes / f"{name}.yaml").write_text(text)

    def play(self, *options: str, **variables: Any) -> tuple[int, str]:
        """Run the playbook; return status and output."""
        given = {
            "vllmd_runtime_manifests": [str(self.runtimes)],
            "vllmd_kubernetes_directory": str(self.out),
            "vllmd_kubernetes_images": examples.IMAGES,
            **variables,
        }
        command = [str(Path(sys.executable).with_name("ansible-playbook")), str(ROOT / "playbooks/manifests.yml")]
        command += ["-i", "localhost,", "-e", json.dumps(given), *options]
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collection"),
            "ANSIBLE_CONFIG": str(self.config),
            "ANSIBLE_NOCOLOR": "1",
        }
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=120)
        assert "Traceback" not in done.stdout + done.stderr
        return done.returncode, done.stdout

    def names(self) -> list[str]:
        return sorted(path.name for path in self.out.iterdir()) if self.out.is_dir() else []


def test_files_come_stay_change_and_go(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path)
    status, output = inventory.play("--check", "--diff")
    assert (status, inventory.names()) == (0, []), output
    assert "+kind: Deployment" in output

    status, output = inventory.play()
    assert status == 0, output
    assert inventory.names() == ["00-namespace.yaml", "qwen32b.yaml", "smollm2.yaml"]
    expected = (examples.DATA / "smollm2/00-namespace.yaml").read_text()
    assert (inventory.out / "00-namespace.yaml").read_text() == expected

    status, output = inventory.play()
    assert status == 0
    assert "changed=0" in output

    # One is for a hypervisor again; a file of somebody else stays.
    (inventory.out / "mine.yaml").write_text("kind: ConfigMap\n")
    text = (examples.DATA / "qwen32b.yaml").read_text()
    inventory.write("qwen32b", text.replace("target: kubernetes, ", ""))
    status, output = inventory.play()
    assert status == 0
    assert "1 removed" in output
    assert inventory.names() == ["00-namespace.yaml", "mine.yaml", "smollm2.yaml"]


def test_refusals_are_one_line_and_change_nothing(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path)
    status, output = inventory.play(vllmd_kubernetes_images={})
    assert status != 0
    assert "no reference for image vllmd-cuda" in output
    assert inventory.names() == []

    inventory.out.mkdir()
    (inventory.out / "smollm2.yaml").write_text("kind: ConfigMap\n")
    status, output = inventory.play()
    assert status != 0
    assert "was not written by kubernetes_manifests; move it, or name another directory" in output
    assert (inventory.out / "smollm2.yaml").read_text() == "kind: ConfigMap\n"


def test_the_playbooks_of_hypervisors_pass_over_it(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path)
    text = (examples.DATA / "qwen32b.yaml").read_text()
    inventory.write("qwen32b", text.replace("target: kubernetes, ", ""))
    arguments = json.dumps({"path": [str(inventory.runtimes)]})
    command = [str(Path(sys.executable).with_name("ansible")), "localhost", "-i", "localhost,", "-m"]
    command += ["vllmd.platform.runtime_manifest", "-a", arguments]
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collection"),
        "ANSIBLE_CONFIG": str(inventory.config),
    }
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)
    result = json.loads(done.stdout.partition("=> ")[2])
    assert [each["metadata"]["name"] for each in result["runtimes"]] == ["qwen32b"]
    assert result["others"] == ["smollm2"]


def test_a_runtime_without_a_place_in_the_cluster_is_not_written(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path)
    kubectl = tmp_path / "kubectl"
    nodes = {"items": [{"metadata": {"name": "gpu-01"}, "spec": {}, "status": {"conditions": []}}]}
    kubectl.write_text(
        f"#!/bin/sh\ncase \"$*\" in *' nodes '*) echo '{json.dumps(nodes)}' ;; *) echo '{{\"items\": []}}' ;; esac\n"
    )
    kubectl.chmod(0o755)
    given = {"vllmd_kubernetes_kubeconfig": "/admin.conf", "vllmd_kubernetes_kubectl": str(kubectl)}
    given["ansible_python_interpreter"] = sys.executable
    status, output = inventory.play(**given)
    assert (status, inventory.names()) == (2, [])
    assert "runtime qwen32b: no node has room for it; nearest is gpu-01: it is not ready" in output
    kubectl.write_text("#!/bin/sh\necho 'The connection to the server was refused' >&2\nexit 1\n")
    status, output = inventory.play(**given)
    assert (status, inventory.names()) == (2, [])
    assert "does not say what nodes it has" in output
    assert "The connection to the server was refused" in output
