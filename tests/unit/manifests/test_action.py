"""Module runtime_manifest as Ansible runs it: on the controller, whatever the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
MANIFEST = (ROOT / "inventories/local/runtime.yaml").read_text()


def ansible(directory: Path, arguments: dict[str, Any], *options: str) -> tuple[int, str]:
    """Call the module for a host that cannot be reached, which it need not; return status and output."""
    command = [str(Path(sys.executable).with_name("ansible")), "unreachable.invalid", "-i", "unreachable.invalid,"]
    command += ["-m", "vllmd.platform.runtime_manifest", "-a", json.dumps(arguments), *options]
    (directory / "ansible.cfg").touch()
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collection"),
        "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
    }
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout


def test_the_manifest_of_the_local_inventory_is_read(tmp_path: Path) -> None:
    path = tmp_path / "runtime.yaml"
    path.write_text(MANIFEST)
    status, output = ansible(tmp_path, {"path": [str(path)], "ssh_authorized_keys": ["ssh-ed25519 AAAA me"]}, "--check")
    assert status == 0
    assert "SUCCESS" in output
    result = json.loads(output.partition("=> ")[2])
    assert result["changed"] is False
    (runtime,) = result["runtimes"]
    assert runtime["guest"]["ssh_authorized_keys"] == ["ssh-ed25519 AAAA me"]
    assert runtime["launcher"]["memory_config"].endswith("M,shared=on")


def test_a_refusal_is_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "runtime.yaml"
    path.write_text(MANIFEST.replace("  resources:", "  resource:"))
    status, output = ansible(tmp_path, {"path": [str(path)]})
    assert status != 0
    errors = json.loads(output.partition("=> ")[2])["errors"]
    assert [line.partition(": ")[2].partition(":")[0] for line in errors] == [
        "field spec.resources",
        "field spec.resource",
    ]
    assert errors[1].endswith("(did you mean resources?)")
