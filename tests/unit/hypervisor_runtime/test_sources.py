"""Whether a runtime was started from its files as they are now, whatever the clock says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.hypervisor_sources import (
    changed,
    digests,
    forget,
    memory_of,
    remember,
)

HOUR_NS = 3600 * 10**9


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A marker of a start, and two files that are older."""
    (tmp_path / "one").mkdir()
    marker, env, image = (tmp_path / "one" / name for name in ("pid", "one.env", "config.iso"))
    for path in (env, image, marker):
        path.write_text(path.name)
    at(env, -HOUR_NS, marker)
    at(image, -HOUR_NS, marker)
    return marker, env, image


def at(path: Path, offset_ns: int, marker: Path) -> None:
    """Set the file's time, from that of the marker."""
    time = marker.stat().st_mtime_ns + offset_ns
    os.utime(path, ns=(time, time))


def test_without_a_memory_files_newer_than_the_start_count(files: tuple[Path, Path, Path]) -> None:
    marker, env, image = files
    assert changed(marker, [env, image, marker.with_name("missing")]) == ([], False)
    at(env, 1, marker)
    assert changed(marker, [env, image]) == ([str(env)], False)
    assert changed(marker.with_name("none"), [env]) == ([], False)


def test_a_file_from_the_future_restarts_once(files: tuple[Path, Path, Path]) -> None:
    marker, env, image = files
    at(env, 100 * HOUR_NS, marker)
    assert changed(marker, [env, image])[0] == [str(env)]
    marker.unlink()
    marker.write_text("the restart")
    remember(marker, digests([env, image]))
    assert changed(marker, [env, image]) == ([], True)


def test_a_change_is_seen_when_the_clock_was_set_back(files: tuple[Path, Path, Path]) -> None:
    marker, env, image = files
    remember(marker, digests([env, image]))
    env.write_text("other")
    at(env, -100 * HOUR_NS, marker)
    assert changed(marker, [env, image]) == ([str(env)], True)
    env.write_text("one.env")
    assert changed(marker, [env, image]) == ([], True)


def test_what_came_and_what_went(files: tuple[Path, Path, Path]) -> None:
    marker, env, image = files
    remember(marker, digests([env, image]))
    # One that a caller does not name is not compared.
    assert changed(marker, [env]) == ([], True)
    drop_in = marker.with_name("drop-in.conf")
    drop_in.write_text("new")
    at(drop_in, 1, marker)
    image.unlink()
    assert changed(marker, [env, image, drop_in]) == ([str(image), str(drop_in)], True)


def test_another_start_is_another_memory(files: tuple[Path, Path, Path]) -> None:
    marker, env, _image = files
    remember(marker, digests([env]))
    at(marker, 1, marker)
    assert changed(marker, [env]) == ([], False)
    memory_of(marker).write_text("[]")
    assert changed(marker, [env]) == ([], False)
    forget(marker)
    forget(marker)
    assert not memory_of(marker).exists()
