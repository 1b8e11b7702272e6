"""Where the bytes of a tree are: by package, wheel, model and layer, each byte once."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RECORD = "my_wheel/a.py,sha256=x,1\n../../../bin/tool,,\nmy_wheel/gone.py,,\n"
SCRIPT = Path(__file__).parents[3] / "image-elements/vllmd-debian/lib/vllmd_sizes.py"


@pytest.fixture(scope="module")
def sizes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vllmd_sizes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def put(tree: Path, path: str, size: int = 1, text: str | None = None) -> None:
    target = tree / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text if text is not None else "x" * size)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    status = "\n\n".join(
        f"Package: {name}\nStatus: install ok installed\nDepends: {depends}\nProvides: {provides}"
        for name, depends, provides in [
            ("systemd", "libc6 (>= 2.3)", "init"),
            ("libc6", "", ""),
            ("containerd", "libc6, runc-any | runc", ""),
            ("runc", "init", "runc-any"),
            ("kubelet", "conntrack:any", ""),
            ("conntrack", "libc6", ""),
        ]
    )
    put(tmp_path, "var/lib/dpkg/status", text=status + "\n\nPackage: old\nStatus: deinstall ok config-files\n")
    # Listed by its name before the merge of /lib into /usr/lib.
    put(tmp_path, "var/lib/dpkg/info/libc6:amd64.list", text="/.\n/lib\n/lib/libc.so\n")
    put(tmp_path, "var/lib/dpkg/info/runc.list", text="/usr/sbin/runc\n/usr/lib/python3/runc.py\n")
    put(tmp_path, "var/lib/dpkg/info/kubelet.list", text="/usr/bin/kubelet\n")
    put(tmp_path, "usr/lib/libc.so", 1000)
    put(tmp_path, "usr/sbin/runc", 200)
    put(tmp_path, "usr/bin/kubelet", 50)
    put(tmp_path, "usr/lib/python3/__pycache__/runc.cpython-311.pyc", 7)
    put(tmp_path, "var/lib/vllmd/models/m/weights", 300)
    put(tmp_path, "var/lib/vllmd/note", 3)
    site = "opt/vllmd/lib/python3.11/site-packages"
    put(tmp_path, f"{site}/my_wheel-1.dist-info/RECORD", text=RECORD)
    put(tmp_path, f"{site}/my_wheel/a.py", 11)
    put(tmp_path, f"{site}/my_wheel/__pycache__/a.cpython-311.pyc", 13)
    put(tmp_path, "opt/vllmd/bin/tool", 17)
    put(tmp_path, "etc/systemd/system/multi-user.target.wants/vllm.service")
    put(tmp_path, "etc/systemd/system/getty.target.wants/getty@tty1.service")
    (tmp_path / "etc/systemd/system/getty@.service").symlink_to("/dev/null")
    declared = tmp_path / "usr/share/vllmd/layers.d"
    put(declared, "vllmd-vllm", text="# Wheels\n/opt/vllmd\n")
    put(declared, "vllmd-model", text="/var/lib/vllmd/models\n")
    put(declared, "vllmd-runtime", text="/var/lib/vllmd\n")
    put(declared, "vllmd-kubernetes-node", text="kubelet\n")
    return tmp_path


def test_every_byte_is_somebodys_once(sizes: ModuleType, tree: Path) -> None:
    os.link(tree / "usr/sbin/runc", tree / "usr/sbin/runc-again")
    asked = {"vllmd-debian": ["systemd"], "vllmd-containerd": ["containerd", "absent"]}
    found: dict[str, Any] = sizes.sizes(tree, asked)
    assert found["packages"]["runc"] == 207 + (tree / "var/lib/dpkg/info/runc.list").stat().st_size
    assert found["packages"]["libc6"] > 1000
    assert found["wheels"] == {"my-wheel": 41}
    assert found["models"] == {"m": 300}
    assert found["package_layers"] == {
        "containerd": "vllmd-containerd",
        "runc": "vllmd-containerd",
        "kubelet": "vllmd-kubernetes-node",
        "conntrack": "vllmd-kubernetes-node",
    }
    assert found["layers"]["vllmd-model"] == 300
    assert found["layers"]["vllmd-runtime"] == 3
    assert found["others"]["vllmd-vllm"] == {"/opt/vllmd/lib": len(RECORD)}
    total = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    assert found["total_bytes"] == sum(found["layers"].values()) == total - 200
    parts = [sum(found[key].values()) for key in ("packages", "wheels", "models")]
    assert sum(parts) + sum(sum(each.values()) for each in found["others"].values()) == found["total_bytes"]


def test_units_that_start_by_themselves_are_named_without_masked_ones(sizes: ModuleType, tree: Path) -> None:
    assert sizes.services(tree) == ["vllm.service"]
