"""The parts of a build: its command, why it failed, and what is cleaned after it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils import build_cleanup, dib

MOUNTINFO = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
90 22 0:40 / /srv/build/demo/tmp/dib_build.x/mnt rw - tmpfs tmpfs rw
91 90 0:22 / /srv/build/demo/tmp/dib_build.x/mnt/proc rw - proc proc rw
92 90 0:22 / /srv/build/demo/tmp/a\\040b rw - tmpfs tmpfs rw
93 22 0:41 / /srv/build/demonstration rw - tmpfs tmpfs rw
"""


def test_mounts_are_found_innermost_first_and_only_below() -> None:
    found = build_cleanup.mounts_below(MOUNTINFO, Path("/srv/build/demo"))
    assert found == [
        "/srv/build/demo/tmp/dib_build.x/mnt/proc",
        "/srv/build/demo/tmp/dib_build.x/mnt",
        "/srv/build/demo/tmp/a b",
    ]


def test_loop_devices_are_found_by_their_backing_file(tmp_path: Path) -> None:
    for number, backing in enumerate(["/b/demo/image0.raw", "/b/demo/gone.raw (deleted)", "/b/demo2/x", "/b/other"]):
        (tmp_path / f"loop{number}/loop").mkdir(parents=True)
        (tmp_path / f"loop{number}/loop/backing_file").write_text(backing + "\n")
    (tmp_path / "loop9").mkdir()
    assert build_cleanup.loops_below(tmp_path, Path("/b/demo")) == ["loop0", "loop1"]


def test_mounts_below_the_directory_go_before_its_files(tmp_path: Path) -> None:
    """In a mount namespace of its own, so that nothing of it can stay on the machine."""
    work = tmp_path / "demo"
    (work / "outer").mkdir(parents=True)
    code = (
        "import sys; from pathlib import Path;"
        "from ansible_collections.vllmd.platform.plugins.module_utils import build_cleanup as b;"
        "print(len(b.clean_directory(Path(sys.argv[1]))))"
    )
    mount = "mount -t tmpfs tmpfs"
    script = f'{mount} "$0/outer" && mkdir "$0/outer/inner" && {mount} "$0/outer/inner" && "$@" "$0"'
    prefix = ["unshare", "--mount", "--map-root-user"] if os.geteuid() else ["unshare", "--mount"]
    done = subprocess.run(
        [*prefix, "sh", "-c", script, str(work), sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "3\n", "two mounts and the directory"
    assert not work.exists()


def test_a_link_in_the_place_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "demo").symlink_to("precious")
    with pytest.raises(build_cleanup.CleanupError, match="is a symbolic link"):
        build_cleanup.clean_directory(tmp_path / "demo")
    assert (tmp_path / "precious").is_dir()


def test_free_space_of_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    free, asked = build_cleanup.free_mib(tmp_path / "a/b")
    assert free >= 0
    assert asked == tmp_path


def build_at(root: Path) -> dib.Build:
    return dib.Build(
        program=Path("/venv/bin/disk-image-create"),
        elements=["one", "two"],
        elements_paths=[Path("/e1"), Path("/e2")],
        architecture="amd64",
        output_directory=root / "out",
        temporary_directory=root / "tmp",
        cache_directory=root / "cache",
        log_path=root / "log",
        environment={"DIB_RELEASE": "bookworm", "TMP_DIR": "ignored"},
    )


def test_the_build_dies_with_its_caller_and_alone(tmp_path: Path) -> None:
    command = dib.command(build_at(tmp_path))
    assert command[:4] == ["setpriv", "--pdeathsig", "KILL", "--"]
    assert {"--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"} < set(command)
    assert command[-2:] == ["one", "two"]


def test_a_build_does_not_depend_on_who_starts_it(tmp_path: Path) -> None:
    base = {
        "PATH": "/home/me/bin",
        "HOME": "/home/me",
        "https_proxy": "http://p",
        "SECRET": "x",
        "DIB_DEBUG_TRACE": "1",
    }
    environment = dib.environment(build_at(tmp_path), base)
    assert environment["ELEMENTS_PATH"] == "/e1:/e2"
    assert environment["TMP_DIR"] == str(tmp_path / "tmp")
    assert environment["PATH"].startswith("/venv/bin:/usr/local/sbin:")
    assert environment["https_proxy"] == "http://p"
    assert "SECRET" not in environment
    assert "DIB_DEBUG_TRACE" not in environment


# As disk-image-create 3.43 writes them.
RUNNING = "2026-01-01 10:00:00.123 | dib-run-parts Running /b/tmp/dib_build.x/hooks/root.d/08-debootstrap\n"
DONE = "2026-01-01 10:00:09.001 | dib-run-parts 08-debootstrap completed\n"


@pytest.mark.parametrize(
    ("log", "status", "expected"),
    [
        (RUNNING + "E: Failed getting release file http://127.0.0.1:9/debian/dists/bookworm/Release\n", 1,
         "the image build cannot reach the network in root.d/08-debootstrap: E: Failed getting release file "
         "http://127.0.0.1:9/debian/dists/bookworm/Release; check the mirror, proxy and network"),
        (RUNNING + "cp: error writing '/b/x': No space left on device\nUnmount /b/mnt\n", 1,
         "the image build ran out of disk space in root.d/08-debootstrap: cp: error writing '/b/x': No space left on "
         "device; free some or set another build directory"),
        (RUNNING + "\x1b[31mbad\x1b[0m\tthing\r\n" + DONE + "later\n", 3,
         "the image build failed in disk-image-create (exit status 3): bad thing | later"),
        (RUNNING, -9, "the image build failed in root.d/08-debootstrap (killed by signal 9): it said nothing"),
        ("", 1, "the image build failed in disk-image-create (exit status 1): it said nothing"),
        ("Connection refused\n" + "working\n" * 100 + "E: broken\n", 1,
         "the image build failed in disk-image-create (exit status 1): working | working | E: broken"),
    ],
)  # fmt: skip
def test_the_reason_is_one_line_from_the_logs_end(log: str, status: int, expected: str) -> None:
    assert dib.reason(log, status) == expected


def test_a_log_without_end_costs_a_bounded_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\xff" * 10 * dib.TAIL_BYTES + b"\nthe end\n")
    assert dib.tail(log).endswith("the end\n")
    assert len(dib.tail(log)) <= dib.TAIL_BYTES
    assert len(dib.reason(dib.tail(log), 1)) < 1000
    assert dib.tail(tmp_path / "none") == ""
