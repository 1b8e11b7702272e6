"""The timer's units, as systemd reads them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

TEMPLATES = Path(__file__).parents[3] / "playbooks/templates"


def write(
    directory: Path, local: bool, inventory: str = "/srv/inventory", below_tmp: tuple[str, ...] = ()
) -> list[Path]:
    """Write both units."""
    variables = {
        "ansible_managed": "managed",
        "timer_user": "deploy" if not local else "root",
        "timer_start": "/usr/bin/true runtimes scale",
        "timer_inventory": inventory,
        "timer_directory": inventory,
        "timer_below_tmp": below_tmp,
        "timer_installed": {"stat": {"exists": False}},
        "timer_checkout": "/srv/vllmd",
        "timer_interval": 60,
        "timer_local": local,
    }
    found = []
    for name in ("vllmd-scale.service", "vllmd-scale.timer"):
        template = trust_as_template((TEMPLATES / f"{name}.j2").read_text())
        found.append(directory / name)
        found[-1].write_text(str(Templar(DataLoader(), variables).template(template)))
    return found


@pytest.mark.parametrize("local", [True, False])
def test_systemd_knows_every_word(tmp_path: Path, local: bool) -> None:
    units = write(tmp_path, local)
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *map(str, units)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "vllmd-scale" in line and "deploy" not in line]
    assert complaints == []


def test_rounds_on_other_hosts_may_write_the_inventory_alone(tmp_path: Path) -> None:
    service = write(tmp_path, local=False)[0]
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=40", "--no-pager", str(service)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ReadWritePaths=/srv/inventory\n" in service.read_text()


def test_what_lies_below_tmp_is_seen_and_only_the_inventory_is_written(tmp_path: Path) -> None:
    paths = ("/tmp/checkout/inventory", "/tmp/checkout")
    service = write(tmp_path, local=False, inventory=paths[0], below_tmp=paths)[0].read_text()
    assert "BindPaths=/tmp/checkout/inventory\nBindReadOnlyPaths=/tmp/checkout\n" in service
    assert "PrivateTmp=yes\n" in service
