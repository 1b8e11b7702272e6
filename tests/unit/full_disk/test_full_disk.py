"""A partition without room: one line that says so, the file as it was, nothing left lying about, and it works again."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.placement import store
from ansible_collections.vllmd.platform.plugins.module_utils.placement.demand import Options
from ansible_collections.vllmd.platform.plugins.module_utils.placement.plan import make_plan
from tests.support import modules
from tests.support.fleets import host, runtime
from tests.unit.config_image.test_config_image import GUEST
from tests.unit.placement.test_action import ansible
from tests.unit.scaling.test_round import ansible as scale
from vllmdctl import manifests
from vllmdctl.errors import CtlError
from vllmdctl.lock import exclusive


class Disk:
    """A file system of 1 MiB that can be full."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Leave no room."""
        with contextlib.suppress(OSError), self._ballast.open("wb", buffering=0) as stream:
            while stream.write(bytes(4096)):
                pass

    def clear(self) -> None:
        """Make room."""
        self._ballast.unlink()

    def files(self) -> dict[str, bytes]:
        """Return what else is on it."""
        found = [each for each in self.path.rglob("*") if each.is_file() and each != self._ballast]
        return {str(each.relative_to(self.path)): each.read_bytes() for each in found}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """The file system, empty."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "none", str(path)], check=True)
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_the_plan(disk: Disk, tmp_path: Path) -> None:
    path = disk.path / "plan.json"
    (disk.path / ".plan.json.lock").touch()
    store.save(path, make_plan([host("a")], [runtime("one")], None, Options()))
    disk.fill()
    before = disk.files()
    refused = ansible(tmp_path, path=str(path))
    assert refused["msg"].startswith(f"plan: {path}: No space left on device")
    assert disk.files() == before
    disk.clear()
    assert ansible(tmp_path, path=str(path))["changed"] is True


def test_a_config_image(disk: Disk, tmp_path: Path) -> None:
    path = disk.path / "config.iso"
    given: dict[str, Any] = {"path": str(path), "guest": GUEST}
    assert modules.run("config_image", given, tmp_path)["changed"] is True
    disk.fill()
    before = disk.files()
    other = {**given, "guest": {**GUEST, "hostname": "other"}}
    refused = modules.run("config_image", other, tmp_path)
    assert "No space left on device" in refused["msg"]
    assert str(path) in refused["msg"]
    assert disk.files() == before
    disk.clear()
    assert modules.run("config_image", other, tmp_path)["changed"] is True


def test_a_manifest_that_is_kept(disk: Disk, tmp_path: Path) -> None:
    source = tmp_path / "new.yaml"
    new = manifests.Manifest("one", "# " + "x" * 8192, source)
    (disk.path / "one.yaml").write_text("# before\n")
    disk.fill()
    before = disk.files()
    with pytest.raises(CtlError) as refused:
        manifests.place([new], disk.path, {})
    assert str(refused.value) == (
        f"cannot keep {disk.path}/one.yaml: No space left on device; make room there, or correct its owner"
    )
    assert disk.files() == before
    disk.clear()
    manifests.place([new], disk.path, {})
    assert (disk.path / "one.yaml").read_text() == new.text


def test_a_lock_is_held_all_the_same(disk: Disk) -> None:
    (disk.path / ".vllmdctl.lock").touch()
    disk.fill()
    in_use = "in use by another process"
    with exclusive(disk.path, "apply"), pytest.raises(CtlError, match=in_use), exclusive(disk.path, "apply"):
        pass


def test_what_scaling_remembers(disk: Disk, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    store.save(plan, make_plan([host("a")], [runtime("one")], None, Options()))
    state = disk.path / "runtimes.scale.json"
    state.write_text("{}")
    disk.fill()
    given = {"path": str(state), "plan": str(plan), "runtimes": [runtime("one")]}
    refused = scale(tmp_path, **given)
    assert refused["msg"] == f"scale: {state}: No space left on device; what was remembered before is as it was"
    assert disk.files() == {"runtimes.scale.json": b"{}"}
    disk.clear()
    assert "msg" not in scale(tmp_path, **given)
    assert json.loads(state.read_text())["runtimes"].keys() == {"one"}
