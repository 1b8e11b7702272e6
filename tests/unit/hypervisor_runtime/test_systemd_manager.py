"""Starting a unit and waiting for it: a systemctl that tells a prepared story, one step at each look."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.hypervisor_managers import (
    RUNNING,
    STARTING,
    STOPPED,
    LaunchError,
    SystemdManager,
)

SYSTEMCTL = """\
#!/bin/sh
echo "$*" >>{directory}/calls
[ "$1" = show ] || exit 0
next=$(ls {directory}/story | head -n 1)
cat "{directory}/story/$next"
# The last step stays.
[ "$(ls {directory}/story | wc -l)" = 1 ] || rm "{directory}/story/$next"
"""
JOURNALCTL = "#!/bin/sh\necho 'vllmd-hypervisor: one: the VMM refused'\n"
STOPPED_UNIT = {"ActiveState": "inactive", "SubState": "dead", "Result": "success", "MainPID": "0"}
QUEUED = STOPPED_UNIT | {"Job": "7"}
STARTED = {"ActiveState": "activating", "SubState": "start", "MainPID": "42", "Job": "7"}
ACTIVE = {"ActiveState": "active", "SubState": "running", "MainPID": "42"}
RESTARTS = {"ActiveState": "activating", "SubState": "auto-restart", "Result": "signal", "MainPID": "0"}
FAILED = {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code", "MainPID": "0"}


class Story:
    """What systemctl shows, look by look."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "story").mkdir()

    def tell(self, *steps: dict[str, str]) -> None:
        """Set what the next looks see; the last one stays."""
        for index, step in enumerate(steps):
            text = "".join(f"{name}={value}\n" for name, value in step.items())
            (self.directory / f"story/{index:02}").write_text(text)

    def calls(self) -> list[str]:
        """Return what systemctl was told beside `show`."""
        return [line for line in (self.directory / "calls").read_text().splitlines() if not line.startswith("show")]


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Story:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("systemctl", SYSTEMCTL.format(directory=tmp_path)), ("journalctl", JOURNALCTL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return Story(tmp_path)


@pytest.fixture
def manager(story: Story, tmp_path: Path) -> SystemdManager:
    (tmp_path / "run/one").mkdir(parents=True)
    return SystemdManager("vllmd-hypervisor@one.service", "system", tmp_path / "run/one", tmp_path / "log")


def watch(tmp_path: Path, pid: int) -> None:
    (tmp_path / "run/one/health.json").write_text(json.dumps({"pid": pid, "healthy": False}))


def test_a_unit_is_started_without_blocking_and_waited_for(manager: SystemdManager, story: Story) -> None:
    story.tell(STOPPED_UNIT, QUEUED, STARTED, ACTIVE)
    manager.start(timeout=20)
    assert story.calls() == ["start --no-block vllmd-hypervisor@one.service"]
    assert manager.observe() == (RUNNING, 42)


def test_a_watched_one_runs_before_its_unit_is_active(manager: SystemdManager, story: Story, tmp_path: Path) -> None:
    story.tell(STOPPED_UNIT, STARTED)
    watch(tmp_path, 42)
    manager.start(timeout=20)
    assert manager.observe() == (RUNNING, 42)
    watch(tmp_path, 41)  # of an earlier virtual machine
    assert manager.observe() == (STARTING, 42)


def test_nothing_that_is_no_report_makes_it_run(manager: SystemdManager, story: Story, tmp_path: Path) -> None:
    story.tell(STARTED)
    for text in ("", "[]", "{}", '{"pid": null}', "\udcff"):
        (tmp_path / "run/one/health.json").write_text(text, errors="surrogateescape")
        assert manager.observe() == (STARTING, 42)


@pytest.mark.parametrize("end", [RESTARTS, FAILED, STOPPED_UNIT])
def test_one_that_does_not_start_is_told_at_once(manager: SystemdManager, story: Story, end: dict[str, str]) -> None:
    story.tell(STOPPED_UNIT, QUEUED, STARTED, end)
    with pytest.raises(LaunchError, match=r"^vllmd-hypervisor@one.service did not start: one: the VMM refused$"):
        manager.start(timeout=20)


def test_one_that_neither_runs_nor_ends_is_given_up(
    manager: SystemdManager, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ansible_collections.vllmd.platform.plugins.module_utils.hypervisor_managers._MARGIN_SECONDS", 0
    )
    story.tell(STARTED)
    with pytest.raises(LaunchError, match="does not run after 1 s; see systemctl status"):
        manager.start(timeout=1)


def test_restarts_are_counted_also_the_one_that_is_waited_for(manager: SystemdManager, story: Story) -> None:
    story.tell(ACTIVE | {"NRestarts": "0"})
    assert manager.ends() == (0, "")
    assert manager.observe()[0] == RUNNING
    story.tell(RESTARTS | {"NRestarts": "1"})
    assert manager.ends() == (2, "signal: one: the VMM refused")
    story.tell(FAILED)
    assert manager.observe() == (STOPPED, None)
