"""What makes an image the same bytes each time: the tree's digest, what is taken out of it, and the file system."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LIB = ROOT / "image-elements/vllmd-debian/lib"
EPOCH = 1700000000


def python(script: str, *arguments: object) -> str:
    """Run one of the element's scripts; return what it prints."""
    command = [sys.executable, str(LIB / script), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def make_tree(root: Path, names: list[str]) -> Path:
    """Make a tree whose files are created in the order of ``names``."""
    (root / "etc").mkdir(parents=True)
    (root / "var/lib/dpkg/info").mkdir(parents=True)
    for name in names:
        (root / "etc" / name).write_text(f"{name}\n" * 700)
    os.link(root / "etc/a", root / "etc/z-same-as-a")
    (root / "etc/link").symlink_to("a")
    (root / "etc/long-link").symlink_to("x" * 200)
    (root / "etc/shadow").write_text("root:*:20000:0:99999:7:::\nvllmd:!:20778::::::\nnobody:*::::::: \n")
    (root / "etc/shadow").chmod(0o640)
    (root / "etc/passwd-").write_text("a backup\n")
    with (root / "etc/sparse").open("wb") as stream:
        stream.seek(1 << 20)
        stream.write(b"end")
    for name, moment in (("systemd:amd64", EPOCH), ("acpid", EPOCH - 100), ("vllmd-initrd", EPOCH + 999)):
        path = root / f"var/lib/dpkg/info/{name}.md5sums"
        path.write_text("")
        os.utime(path, (moment, moment))
    return root


def packages(tmp_path: Path) -> Path:
    path = tmp_path / "lock.json"
    path.write_text(json.dumps({"packages": {"systemd": {}, "acpid": {}, "gone": {}}}))
    return path


def image_of(tree: Path, image: Path) -> str:
    done = subprocess.run(
        ["bash", str(LIB / "vllmd-make-ext4"), str(tree), str(image), str(EPOCH)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "DIB_PYTHON_EXEC": sys.executable, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return hashlib.sha256(image.read_bytes()).hexdigest()


def test_two_builds_of_a_tree_give_the_same_bytes(tmp_path: Path) -> None:
    names = [f"{letter}{number}" for letter in "abc" for number in range(20)] + ["a"]
    one, two = make_tree(tmp_path / "one", names), make_tree(tmp_path / "two", names[::-1])
    os.utime(two / "etc", (EPOCH - 1000, EPOCH - 1000))  # the other one had a file more for a while
    for tree in (one, two):
        assert python("vllmd_normalise.py", tree, packages(tmp_path)).strip() == str(EPOCH)
    assert python("vllmd_tree.py", one) == python("vllmd_tree.py", two)
    (two / "etc/a").read_text()
    assert image_of(one, tmp_path / "one.img") == image_of(two, tmp_path / "two.img")
    check = ["/sbin/e2fsck", "-fn", str(tmp_path / "one.img")]
    done = subprocess.run(check, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_says_when_and_where_is_taken_out(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", ["a"])
    assert python("vllmd_normalise.py", tree, packages(tmp_path), EPOCH + 5).strip() == str(EPOCH + 5)
    assert not (tree / "etc/passwd-").exists()
    day = str((EPOCH + 5) // 86400)
    assert (tree / "etc/shadow").read_text().splitlines()[:2] == [f"root:*:{day}:0:99999:7:::", f"vllmd:!:{day}::::::"]
    assert (tree / "etc/shadow").stat().st_mode & 0o777 == 0o640
    assert all(path.lstat().st_mtime <= EPOCH + 5 for path in tree.rglob("*"))
    assert (tree / "var/lib/dpkg/info/acpid.md5sums").stat().st_mtime == EPOCH - 100, "an older date stays"


@pytest.mark.parametrize("change", ["mode", "content", "link", "name", "attribute", "hardlink", "time"])
def test_the_digest_of_a_tree_sees_everything_but_times(tmp_path: Path, change: str) -> None:
    tree = make_tree(tmp_path / "tree", ["a", "b"])
    before = python("vllmd_tree.py", tree)
    if change == "mode":
        (tree / "etc/b").chmod(0o4755)
    elif change == "content":
        (tree / "etc/b").write_text((tree / "etc/b").read_text()[:-2] + "x\n")
    elif change == "link":
        (tree / "etc/link").unlink()
        (tree / "etc/link").symlink_to("b")
    elif change == "name":
        (tree / "etc/b").rename(tree / "etc/c")
    elif change == "attribute":
        os.setxattr(tree / "etc/b", "user.test", b"1")
    elif change == "hardlink":
        (tree / "etc/z-same-as-a").unlink()
        (tree / "etc/z-same-as-a").write_text((tree / "etc/a").read_text())
    else:
        os.utime(tree / "etc/b", (1, 1))
    assert (python("vllmd_tree.py", tree) == before) == (change == "time")
