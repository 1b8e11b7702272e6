"""Two hosts whose virtual machines are stubs, and connections to them that can break."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import connection
from tests.support.update_bed import Bed


class Fleet(Bed):
    """A bed with a plan."""

    @property
    def plan_file(self) -> Path:
        """Where the plan is."""
        return self.directory / "runtimes.plan.json"

    def placements(self) -> list[dict[str, str]]:
        """Return what the plan places."""
        found: list[dict[str, str]] = json.loads(self.plan_file.read_text())["placements"]
        return found

    def placed(self) -> dict[str, str]:
        """Return where the plan has each replica."""
        return {each["id"]: each["host"] for each in self.placements()}

    def running(self) -> dict[str, str]:
        """Return where the virtual machine of which replica runs."""
        program = (
            "for file in /etc/vllmd/hypervisor/*.env; do name=$(basename $file .env); "
            "VLLMD_HYPERVISOR_NAME=$name VLLMD_HYPERVISOR_RUN_DIRPATH=/run/vllmd vllmd-hypervisor status >&2 "
            "&& echo $name; done; :"
        )
        return {name: host for host in self.names for name in self.inside(host, "sh", "-c", program).split()}

    def do(self, name: str, *arguments: str, status: int = 0, **variables: object) -> str:
        """Run a playbook that ends with ``status``; start gets the plan. Returns what it printed."""
        if name == "start":
            variables["vllmd_placements"] = self.placements()
        done = self.run(name, *arguments, **variables)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return done.stdout

    def gone(self, host: str) -> Path:
        """Return the file that breaks the connection to a host, after as many commands as it says."""
        return self.directory / f"{host}.gone"


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Hosts a and b without a runtime; one is described, of one to two replicas."""
    monkeypatch.setenv("ANSIBLE_CONNECTION_PLUGINS", str(Path(connection.__path__[0])))
    monkeypatch.setenv("ANSIBLE_CALLBACKS_ENABLED", "vllmd.platform.events")
    monkeypatch.setenv("VLLMD_EVENTS_PATH", str(tmp_path / "events.jsonl"))
    with Fleet(tmp_path, "a", "b") as made:
        made.manifest["spec"]["scaling"] = {"minReplicas": 1, "maxReplicas": 2}
        made.variables = {
            "ansible_connection": "vanishing",
            "vanishing_gone": f"{tmp_path}/{{{{ inventory_hostname }}}}.gone",
        }
        yield made
