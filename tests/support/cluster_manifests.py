"""What the roles give a cluster, rendered with their defaults; run as a program, it writes that into a directory.

python tests/support/cluster_manifests.py DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLES = Path(__file__).resolve().parents[2] / "roles"
#: The template of each role, and what is known of a cluster only when the role runs.
TEMPLATES: dict[tuple[str, str], dict[str, Any]] = {
    ("control_plane_controller", "bindings.yaml.j2"): {
        "__control_plane_controller_taken": [
            "kubeadm:node-autoapprove-bootstrap",
            "kubeadm:node-autoapprove-certificate-rotation",
        ]
    },
    ("control_plane_controller", "rights.yaml.j2"): {},
    ("runtime_controller", "namespaces.yaml.j2"): {},
}


def variables(role: str) -> dict[str, Any]:
    """Return a role's defaults and variables, as templates."""
    found: dict[str, Any] = {"role_path": str(ROLES / role)}
    for name in ("defaults", "vars"):
        text = (ROLES / role / name / "main.yml").read_text(encoding="utf-8")
        for key, value in yaml.safe_load(text).items():
            found[key] = trust_as_template(value) if isinstance(value, str) else value
    return found


def rendered(role: str, template: str) -> str:
    """Return the manifest that a template of a role becomes."""
    given = {**variables(role), **TEMPLATES[role, template]}
    text = trust_as_template((ROLES / role / "templates" / template).read_text(encoding="utf-8"))
    return str(Templar(DataLoader(), given).template(text))


def main() -> None:
    """Write all of them."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for role, template in TEMPLATES:
        (directory / f"{role}-{template.removesuffix('.j2')}").write_text(rendered(role, template), encoding="utf-8")


if __name__ == "__main__":
    main()
