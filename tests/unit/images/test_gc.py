"""Garbage collection: what runs, is named, pinned, new or being made stays; the rest goes, by how many bytes."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils import (
    image_gc,
    image_manifest,
    image_references,
    images,
    locks,
)
from tests.support import modules

FACTS: dict[str, Any] = {
    "schema_version": 1,
    "profile": "cpu",
    "debian": {"release": "bookworm", "architecture": "amd64"},
    "elements": [],
    "packages": {},
    "wheels": {},
    "models": [],
    "cmdline": "ro",
    "kernel_release": "6.1",
}


class Host:
    """A builder with a store, caches, runtimes and /proc of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store, self.cache, self.build, self.logs = (root / name for name in ("store", "cache", "build", "log"))
        for path in (self.store, self.cache, self.build, self.logs, root / "proc", root / "etc/vllmd/hypervisor"):
            path.mkdir(parents=True)
        (root / "proc/locks").write_text("")

    def scope(self, keep: int = 1, **changes: Any) -> image_gc.Scope:
        arguments = {"store": self.store, "cache": self.cache, "build": self.build, "logs": self.logs, "keep": keep}
        return image_gc.Scope(**{**arguments, "root": self.root, **changes})

    def publish(self, *names: str, image: str = "demo") -> list[str]:
        """Publish a version for each of ``names``, oldest first; return their versions."""
        made = []
        for name in names:
            partial = self.store / image / ".000000000000.partial-1"
            partial.mkdir(parents=True)
            for each in image_manifest.FILE_NAMES:
                (partial / each).write_text(name * 5000)
            manifest = image_manifest.compose(partial, image, {"a": name}, FACTS)
            made.append(images.publish(partial, self.store, manifest).name)
        return made

    def entry(self, path: str, age: int = 0) -> Path:
        """Make a cache entry ``age`` seconds old."""
        target = self.cache / path
        target.mkdir(parents=True)
        (target / "content").write_text("x" * 9000)
        os.utime(target, (1_000_000 - age, 1_000_000 - age))
        return target

    def runtime(self, text: str) -> None:
        (self.root / "etc/vllmd/hypervisor/one.env").write_text(text)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def outcome(scope: image_gc.Scope) -> dict[str, str]:
    """Return the reason for each path that stays; an empty one for what goes."""
    return {item.path.name: item.kept for item in image_gc.survey(scope)}


def test_the_newest_and_what_latest_names_stay(host: Host) -> None:
    first, second, third = host.publish("1", "2", "3")
    images.set_latest(host.store, "demo", first)
    assert outcome(host.scope(keep=1)) == {first: "the latest", second: "", third: "among the newest 1"}
    assert outcome(host.scope(keep=2))[second] == "among the newest 2"


def test_what_a_runtime_names_stays_running_or_not(host: Host) -> None:
    first, second, third = host.publish("1", "2", "3")
    host.runtime(f'# image\nVLLMD_HYPERVISOR_IMAGE="{host.store}/demo/{first}/system.raw"\n')
    found = outcome(host.scope())
    assert found[first] == f"named in {host.root}/etc/vllmd/hypervisor/one.env"
    assert found[second] == ""
    host.runtime(f"VLLMD_HYPERVISOR_KERNEL={host.store}/demo/latest/kernel\n")
    assert outcome(host.scope())[first] == ""
    assert outcome(host.scope())[third] == "the latest"


def test_what_a_process_or_a_loop_device_uses_stays(host: Host) -> None:
    first, second, _third = host.publish("1", "2", "3")
    descriptors = host.root / "proc/4242/fd"
    descriptors.mkdir(parents=True)
    (descriptors / "7").symlink_to(host.store / "demo" / first / "system.raw")
    loop = host.root / "sys/block/loop3/loop"
    loop.mkdir(parents=True)
    (loop / "backing_file").write_text(f"{host.store}/demo/{second}/system.raw\n")
    found = outcome(host.scope())
    assert found[first] == "in use by a process"
    assert found[second] == "attached as loop3"


def test_pins_stay_and_have_to_be_spelled(host: Host) -> None:
    first, _second = host.publish("1", "2")
    assert outcome(host.scope(pins=(f"demo/{first}",)))[first] == "pinned"
    with pytest.raises(image_manifest.ImageError) as caught:
        image_gc.survey(host.scope(pins=("demo",)))
    assert (
        str(caught.value) == "pin 'demo' is not possible; write <image name>/<version>, such as vllmd-cpu/3f2a91c04b7d"
    )


def test_a_runtime_that_cannot_be_read_stops_everything(host: Host) -> None:
    host.publish("1", "2")
    (host.root / "etc/vllmd/hypervisor/two.env").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        image_gc.survey(host.scope())


def test_cache_entries_go_beyond_the_newest_except_what_the_next_build_uses(host: Host) -> None:
    for number, name in enumerate(["a" * 12, "b" * 12, "c" * 12]):
        host.entry(f"wheels/{name}", age=100 - number)
        host.entry(f"models/m/{name}", age=100 - number)
    host.entry("wheels/.dddddddddddd.partial")
    host.entry("wheels/README")
    wanted = host.cache / "wheels" / ("a" * 12)
    items = {(item.kind, item.path.name): item.kept for item in image_gc.survey(host.scope(keep_paths=(wanted,)))}
    assert items == {
        ("wheels", "a" * 12): "what the next build uses",
        ("wheels", "b" * 12): "",
        ("wheels", "c" * 12): "among the newest 1",
        ("leftover", ".dddddddddddd.partial"): "",
        ("model", "a" * 12): "",
        ("model", "b" * 12): "",
        ("model", "c" * 12): "among the newest 1",
    }


def test_layers_stay_with_the_versions_made_from_them(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = host.publish("1", "2")
    load = image_manifest.load
    keys = {first: "1" * 12, second: "2" * 12}
    monkeypatch.setattr(
        image_manifest, "load", lambda path: {**load(path), "layers": [{"name": "debian", "key": keys[path.name]}]}
    )
    for key in ("1" * 12, "2" * 12, "3" * 12):
        host.entry(f"layers/{key}")
    found = outcome(host.scope())
    assert found["1" * 12] == found["3" * 12] == ""
    assert found["2" * 12] == f"part of demo/{second}"


@pytest.fixture
def held(host: Host) -> Iterator[Any]:
    """A function that holds a lock file as its maker does, until the test ends."""
    descriptors = []

    def hold(path: Path, how: int = fcntl.LOCK_EX) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, how)
        descriptors.append(descriptor)
        (host.root / "proc/locks").write_text(Path("/proc/locks").read_text())

    yield hold
    for descriptor in descriptors:
        os.close(descriptor)


def test_what_somebody_is_making_stays(host: Host, held: Any) -> None:
    host.publish("1")
    host.entry("wheels/.aaaaaaaaaaaa.partial")
    host.entry("layers/bbbbbbbbbbbb")
    (host.build / "demo/tmp").mkdir(parents=True)
    held(host.cache / "wheels/.aaaaaaaaaaaa.lock")
    held(host.cache / "layers/.lock", fcntl.LOCK_SH)
    held(images.lock_path(host.store, "demo"))
    items = [item for item in image_gc.survey(host.scope()) if item.kind != "image"]
    assert len(items) == 3
    assert {item.kept for item in items} == {"somebody is making it, or uses it for a build"}


def test_what_becomes_used_after_the_survey_stays(host: Host, held: Any) -> None:
    first, _second = host.publish("1", "2")
    wheels = host.entry("wheels/aaaaaaaaaaaa", age=9)
    host.entry("wheels/bbbbbbbbbbbb")
    items = image_gc.survey(host.scope())
    host.runtime(f"X={host.store}/demo/{first}/kernel\n")
    held(host.cache / "wheels/.aaaaaaaaaaaa.lock")
    removed, stayed = image_gc.collect(host.scope(), items)
    assert removed == []
    assert [item.kept for item in stayed] == [
        f"named in {host.root}/etc/vllmd/hypervisor/one.env",
        "somebody began to use it",
    ]
    assert wheels.is_dir()
    assert (host.store / "demo" / first).is_dir()


def test_a_build_that_runs_keeps_its_image_from_being_collected(host: Host) -> None:
    first, _second = host.publish("1", "2")
    items = image_gc.survey(host.scope())
    with locks.exclusive(images.lock_path(host.store, "demo"), "image demo"):
        removed, stayed = image_gc.collect(host.scope(), items)
    assert removed == []
    assert [item.kept for item in stayed] == ["a build of this image runs"]
    assert (host.store / "demo" / first).is_dir()


def test_the_build_directory_holds_other_things_too(host: Host) -> None:
    (host.build / "demo/tmp/dib").mkdir(parents=True)
    (host.build / "home/documents").mkdir(parents=True)
    assert outcome(host.scope()) == {"demo": ""}
    image_gc.collect(host.scope(), image_gc.survey(host.scope()))
    assert sorted(path.name for path in host.build.iterdir()) == ["home"]


def test_logs_of_images_that_are_gone_go_after_a_while(host: Host) -> None:
    host.publish("1")
    for name in ("image-demo.log", "image-gone.log", "wheels-old.log", "other.log"):
        (host.logs / name).write_text("x")
    os.utime(host.logs / "wheels-old.log", (0, 0))
    found = outcome(host.scope())
    assert found["image-demo.log"] == "of image demo"
    assert found["image-gone.log"] == "younger than 30 days"
    assert found["wheels-old.log"] == ""
    assert "other.log" not in found


def test_hard_links_that_stay_free_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one").write_bytes(bytes(100_000))
    alone = image_gc.disk_usage(tmp_path / "a")
    assert alone >= 100_000
    (tmp_path / "a/two").hardlink_to(tmp_path / "a/one")
    assert image_gc.disk_usage(tmp_path / "a") == alone
    (tmp_path / "b").hardlink_to(tmp_path / "a/one")
    assert image_gc.disk_usage(tmp_path / "a") < 100_000


def test_the_module_tells_then_does_then_has_nothing_to_do(host: Host) -> None:
    first, second = host.publish("1", "2")
    host.entry("wheels/aaaaaaaaaaaa", age=9)
    host.entry("wheels/bbbbbbbbbbbb")
    arguments = {
        "store_dir": str(host.store),
        "cache_dir": str(host.cache),
        "build_dir": str(host.build),
        "log_dir": str(host.logs),
        "references": [],
        "keep": 1,
    }
    told = modules.run("image_gc", arguments, host.root, check=True)
    assert told["changed"]
    assert (host.store / "demo" / first).is_dir()
    assert [entry["kind"] for entry in told["removed"]] == ["image", "wheels"]
    assert told["freed_bytes"] == sum(entry["size_bytes"] for entry in told["removed"]) > 20_000
    assert told["summary"][-1].startswith("would remove 2 of 4, ")
    done = modules.run("image_gc", arguments, host.root)
    assert done["removed"] == told["removed"]
    assert not (host.store / "demo" / first).exists()
    assert images.latest_version(host.store, "demo") == second
    assert sorted(path.name for path in (host.cache / "wheels").glob("[!.]*")) == ["bbbbbbbbbbbb"]
    again = modules.run("image_gc", arguments, host.root)
    assert not again["changed"]
    assert json.dumps(again["diff"]["before"]) == json.dumps(again["diff"]["after"])
    refused = modules.run("image_gc", {**arguments, "keep": 0}, host.root)
    assert "keep is 0; at least 1 has to stay" in refused["msg"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A=/s/demo/3f2a91c04b7d/kernel", {("demo", "3f2a91c04b7d")}),
        ("path=/s/demo/latest/system.raw,readonly=on", {("demo", "latest")}),
        ("/s/demo/3f2a91c04b7d", {("demo", "3f2a91c04b7d")}),
        ("/other/s/demo/3f2a91c04b7d0/kernel /t/demo/3f2a91c04b7d/x", set()),
    ],
)
def test_versions_are_found_in_what_names_them(text: str, found: set[tuple[str, str]]) -> None:
    assert image_references.named_in(text, Path("/s")) == found
