"""Module host_files: what differs is written at once, and a unit hears of it even when the run was killed."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils import host_files
from ansible_collections.vllmd.platform.plugins.modules import host_files as module


class Systemd:
    """systemctl and a program that checks configurations, as far as the module asks them."""

    def __init__(self) -> None:
        self.units: dict[str, dict[str, str]] = {}
        self.calls: list[str] = []
        self.dies_at = ""

    def unit(self, name: str, active: str = "inactive", file: str = "disabled", reload: str = "no") -> None:
        self.units[name] = {
            "LoadState": "loaded",
            "ActiveState": active,
            "UnitFileState": file,
            "NeedDaemonReload": reload,
            "ActiveEnterTimestampMonotonic": str(int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6)),
        }

    def __call__(self, argv: Sequence[str]) -> tuple[int, str]:
        if argv[0] == "checker":
            refused = "bad" in Path(argv[1]).read_text()
            return (1, "reading\nline 1:  it is bad") if refused else (0, "")
        assert argv[0] == "systemctl"
        verb = argv[1]
        if verb == "show":
            gone = dict.fromkeys(("ActiveState", "UnitFileState", "ActiveEnterTimestampMonotonic"), "0")
            gone |= {"LoadState": "not-found", "NeedDaemonReload": "no"}
            names = argv[argv.index("--") + 1 :]
            told = [self.units.get(name, gone) for name in names]
            return 0, "\n\n".join("\n".join(f"{key}={value}" for key, value in each.items()) for each in told)
        self.calls.append(" ".join(argv[1:]))
        if verb == self.dies_at:
            raise KeyboardInterrupt
        if verb == "daemon-reload":
            for each in self.units.values():
                each["NeedDaemonReload"] = "no"
            return 0, ""
        if verb == "enable":
            self.units[argv[2]]["UnitFileState"] = "enabled"
        elif verb != "reload":
            self.unit(argv[2], active="active", file=self.units[argv[2]]["UnitFileState"])
        return 0, ""


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Systemd:
    made = Systemd()
    monkeypatch.setattr(host_files, "run", made)
    monkeypatch.setattr(host_files, "PENDING", tmp_path / "run/restart")
    return made


def bring(root: Path, *, is_dry: bool = False, **changed: Any) -> dict[str, Any]:
    file = {
        "path": str(root / "etc/containerd/config.toml"),
        "content": "version = 2\n",
        "mode": "0640",
        "validate": ["checker", "%s"],
        "previous": str(root / "var/previous/config.toml"),
    }
    unit = {"name": "containerd.service", "files": [file["path"]], "started": True, "reload": False, "watched": []}
    given = {
        "directories": [str(root / "etc/cdi")],
        "files": [{**file, **changed.pop("file", {})}],
        "links": {str(root / "opt/bin"): str(root / "usr/lib/cni")},
        "units": [{**unit, **changed.pop("unit", {})}],
    }
    assert not changed
    return module.bring(given, is_dry=is_dry)


def every(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink())


def test_everything_is_made_once(tmp_path: Path, systemd: Systemd) -> None:
    systemd.unit("containerd.service", active="active")
    plugins = tmp_path / "usr/lib/cni"
    plugins.mkdir(parents=True)
    for name in ("bridge", "loopback", "own"):
        (plugins / name).write_text(name)
    (tmp_path / "opt/bin").mkdir(parents=True)
    (tmp_path / "opt/bin/own").write_text("an add-on's own")
    dry = bring(tmp_path, is_dry=True)
    assert not (tmp_path / "etc").exists()
    assert systemd.calls == []
    done = bring(tmp_path)
    assert done == dry
    config = tmp_path / "etc/containerd/config.toml"
    assert config.read_text() == "version = 2\n"
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    assert (tmp_path / "etc/cdi").is_dir()
    assert (tmp_path / "opt/bin/bridge").readlink() == plugins / "bridge"
    assert (tmp_path / "opt/bin/own").read_text() == "an add-on's own"
    assert (tmp_path / "var/previous/config.toml").read_text() == ""
    assert stat.S_IMODE((tmp_path / "var/previous").stat().st_mode) == 0o700
    assert systemd.calls == ["enable containerd.service", "restart containerd.service"]
    assert done["diff"][0] == {
        "before_header": str(config),
        "after_header": str(config),
        "before": "",
        "after": "version = 2\n",
    }
    before = every(tmp_path)
    assert bring(tmp_path) == {"changed": False, "written": [], "done": [], "diff": []}
    assert every(tmp_path) == before
    assert len(systemd.calls) == 2


def test_what_was_there_is_kept_once(tmp_path: Path, systemd: Systemd) -> None:
    systemd.unit("containerd.service")
    config = tmp_path / "etc/containerd/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("the distribution's\n")
    bring(tmp_path)
    bring(tmp_path, file={"content": "version = 3\n"})
    assert (tmp_path / "var/previous/config.toml").read_text() == "the distribution's\n"
    assert config.read_text() == "version = 3\n"
    assert systemd.calls == ["enable containerd.service", "start containerd.service", "restart containerd.service"]


def test_nothing_is_written_when_one_is_refused(tmp_path: Path, systemd: Systemd) -> None:
    systemd.unit("containerd.service")
    with pytest.raises(
        host_files.FilesError, match=r"config.toml is left as it was: checker refuses the new one: line 1: it is"
    ):
        bring(tmp_path, file={"content": "bad\n"})
    assert every(tmp_path) == []
    assert systemd.calls == []


@pytest.mark.parametrize("dies_at", ["daemon-reload", "enable", "restart"])
def test_a_run_that_was_killed_is_made_good(tmp_path: Path, systemd: Systemd, dies_at: str) -> None:
    systemd.unit("containerd.service", active="active", reload="yes")
    systemd.dies_at = dies_at
    with pytest.raises(KeyboardInterrupt):
        bring(tmp_path)
    systemd.dies_at, systemd.calls = "", []
    assert bring(tmp_path, is_dry=True)["done"][-1] == "restart containerd.service"
    again = bring(tmp_path)
    assert again["changed"]
    assert again["written"] == []
    assert systemd.calls[-1] == "restart containerd.service"
    assert not bring(tmp_path)["changed"]


@pytest.mark.parametrize(("state", "verb"), [("activating", "restart"), ("failed", "start")])
def test_a_unit_that_is_just_starting_starts_anew(tmp_path: Path, systemd: Systemd, state: str, verb: str) -> None:
    systemd.unit("containerd.service", active=state, file="enabled")
    assert bring(tmp_path)["done"][-1] == f"{verb} containerd.service"
    assert not bring(tmp_path)["changed"]


def test_a_unit_that_shall_not_be_started_is_enabled_alone(tmp_path: Path, systemd: Systemd) -> None:
    systemd.unit("containerd.service", reload="yes")
    assert bring(tmp_path, unit={"started": False})["done"][-1] == "enable containerd.service"
    assert systemd.calls == ["daemon-reload", "enable containerd.service"]
    assert not bring(tmp_path, unit={"started": False})["changed"]


def test_a_unit_that_can_reload_is_not_restarted(tmp_path: Path, systemd: Systemd) -> None:
    systemd.unit("containerd.service", active="active", file="enabled")
    assert bring(tmp_path, unit={"reload": True})["done"][-1] == "reload containerd.service"
    assert systemd.calls == ["reload containerd.service"]
    assert not bring(tmp_path, unit={"reload": True})["changed"]


def test_what_others_write_restarts_a_unit_that_is_older(tmp_path: Path, systemd: Systemd) -> None:
    programs, credentials = tmp_path / "usr/lib/program", tmp_path / "etc/own.conf"
    (programs / "deep/__pycache__").mkdir(parents=True)
    systemd.unit("containerd.service", active="active", file="enabled")
    unit = {"files": [], "watched": [str(programs), str(credentials)]}
    assert bring(tmp_path, unit=unit)["done"] == [f"directory {tmp_path}/etc/cdi"]
    later = time.time() + 0.5
    for path, restarts in [("deep/__pycache__/own.pyc", False), ("deep/own.py", True)]:
        (programs / path).touch()
        os.utime(programs / path, (later, later))
        assert bool(bring(tmp_path, is_dry=True, unit=unit)["done"]) is restarts
    (programs / "deep/own.py").unlink()
    credentials.parent.mkdir(exist_ok=True)
    credentials.touch()
    os.utime(credentials, (later, later))
    time.sleep(0.6)
    assert bring(tmp_path, unit=unit)["done"] == ["restart containerd.service"]
    assert not bring(tmp_path, unit=unit)["changed"]


def test_other_files_restart_nothing(tmp_path: Path, systemd: Systemd) -> None:
    systemd.unit("containerd.service", active="active", file="enabled")
    assert bring(tmp_path, unit={"files": []})["changed"]
    assert systemd.calls == []


def test_a_dry_run_passes_over_what_is_not_installed_yet(
    tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(argv: Sequence[str]) -> tuple[int, str]:
        if argv[0] == "checker":
            raise host_files.FilesError("checker is not installed")
        return systemd(argv)

    monkeypatch.setattr(host_files, "run", run)
    assert bring(tmp_path, is_dry=True)["written"] == [str(tmp_path / "etc/containerd/config.toml")]
    with pytest.raises(host_files.FilesError, match="checker is not installed"):
        bring(tmp_path)
    with pytest.raises(host_files.FilesError, match=r"containerd.service is not there \(not-found\); install"):
        bring(tmp_path, file={"validate": []})


def test_a_link_gives_way_and_anything_else_is_refused(tmp_path: Path, systemd: Systemd) -> None:
    systemd.unit("containerd.service")
    config = tmp_path / "etc/containerd/config.toml"
    config.parent.mkdir(parents=True)
    other = tmp_path / "other"
    other.write_text("version = 2\n")
    config.symlink_to(other)
    bring(tmp_path)
    assert not config.is_symlink()
    assert other.read_text() == "version = 2\n"
    config.unlink()
    config.mkdir()
    with pytest.raises(host_files.FilesError, match=r"config.toml is not a file; move it away"):
        bring(tmp_path)


def test_a_failed_restart_says_so_and_is_tried_again(
    tmp_path: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd.unit("containerd.service", active="active", file="enabled")

    def run(argv: Sequence[str]) -> tuple[int, str]:
        return (1, "Job failed.\nSee the journal") if argv[1] == "restart" else systemd(argv)

    monkeypatch.setattr(host_files, "run", run)
    with pytest.raises(host_files.FilesError, match=r"restart containerd\.service failed: Job failed\. See"):
        bring(tmp_path)
    monkeypatch.setattr(host_files, "run", systemd)
    assert bring(tmp_path)["done"] == ["restart containerd.service"]


@pytest.mark.parametrize("mode", ["rw", "0888", "-644", ""])
def test_a_mode_is_octal(tmp_path: Path, systemd: Systemd, mode: str) -> None:
    systemd.unit("containerd.service")
    with pytest.raises(host_files.FilesError, match="is not octal; write it like '0644'"):
        bring(tmp_path, file={"mode": mode})
    assert every(tmp_path) == []
