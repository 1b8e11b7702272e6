#!/usr/bin/env python3
"""Build Debian, containerd and the Kubernetes node element for real: from files, from a signed repository, and refused.

Run as root with the collection's environment; takes about five minutes. kubectl is Debian's own program; kubelet,
kubeadm and crictl are small scripts that answer for a version, since Debian has none of them.

    tests/system/kubernetes_node.py [--work DIR] [--cache DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "collection")]

from ansible_collections.vllmd.platform.plugins.module_utils import apt_sources, dib  # noqa: E402 -- needs the path above
from tests.support import apt_repository  # noqa: E402
from tests.support.apt_repository import output  # noqa: E402

ELEMENTS = ["vllmd-debian", "vllmd-containerd", "vllmd-kubernetes-node"]
VERSION = "1.20.2"  # of Debian's kubectl
ANSWERS = {
    "kubelet": f'echo "Kubernetes v{VERSION}"',
    "kubeadm": f"echo v{VERSION}",
    "crictl": 'echo "crictl version v1.20.0"',
}


def programs(target: Path) -> Path:
    """Put the four programs and their digests into ``target``."""
    target.mkdir()
    with tempfile.TemporaryDirectory() as name:
        output("apt-get", "download", "kubernetes-client", cwd=name)
        output("dpkg-deb", "-x", next(Path(name).glob("*.deb")), f"{name}/tree")
        shutil.copy(f"{name}/tree/usr/bin/kubectl", target / "kubectl")
    for name, answer in ANSWERS.items():
        (target / name).write_text(f"#!/bin/sh\n{answer}\n", encoding="utf-8")
    for path in sorted(target.iterdir()):
        path.chmod(0o755)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(target.iterdir())]
    (target / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
    return target


def repository(target: Path, files: Path, work: Path) -> Path:
    """Make a signed apt repository of the programs in ``files``; return the file of its key."""
    target.mkdir()
    unit = ROOT / "image-elements/vllmd-kubernetes-node/lib/kubelet.service"
    for package, program in (
        ("kubelet", "kubelet"),
        ("kubeadm", "kubeadm"),
        ("kubectl", "kubectl"),
        ("cri-tools", "crictl"),
    ):
        units = {"lib/systemd/system/kubelet.service": unit} if package == "kubelet" else {}
        apt_repository.package(target, package, f"{VERSION}-1.1", {f"usr/bin/{program}": files / program, **units})
    return apt_repository.sign(target, work)


def build(name: str, work: Path, cache: Path, variables: dict[str, str]) -> Path:
    """Build with ``variables``; return the directory with system.raw and facts.json. Raises dib.BuildError."""
    out, temporary = work / name, work / f"{name}.tmp"
    for directory in (out, temporary):
        directory.mkdir()
    mirrors = apt_sources.mirrors(apt_sources.read_sources(), "bookworm")
    environment = {
        "DIB_NO_TIMESTAMP": "1",
        "DIB_RELEASE": "bookworm",
        "DIB_VLLMD_PROFILE": "cpu",
        "DIB_DISTRIBUTION_MIRROR": mirrors.debian or "",
        "DIB_DEBIAN_SECURITY_MIRROR": mirrors.security or "",
        **{f"DIB_VLLMD_KUBERNETES_{key}": value for key, value in variables.items()},
    }
    try:
        dib.run(
            dib.Build(
                program=Path(sys.executable).with_name("disk-image-create"),
                elements=ELEMENTS,
                elements_paths=[ROOT / "image-elements"],
                architecture="amd64",
                output_directory=out,
                temporary_directory=temporary,
                cache_directory=cache,
                log_path=work / f"{name}.log",
                environment=environment,
            ),
            os.environ,
        )
    except dib.BuildError:
        shutil.copy(work / f"{name}.log", Path(tempfile.gettempdir(), f"kubernetes_node-{name}.log"))
        raise
    finally:
        shutil.rmtree(temporary)
    return out


def inspect(out: Path, files: Path, work: Path) -> None:
    """Look into the built image."""
    facts = json.loads((out / "facts.json").read_text())
    assert facts["kubernetes"]["version"] == f"v{VERSION}", facts["kubernetes"]
    for name in ("kubelet", "kubeadm", "kubectl", "crictl"):
        digest = hashlib.sha256((files / name).read_bytes()).hexdigest()
        assert facts["kubernetes"]["files"][name] == f"sha256:{digest}", name
    mount = work / "mount"
    mount.mkdir(exist_ok=True)
    script = """
        mount -o ro,loop,noload "$1" "$2"
        cd "$2"
        sha256sum usr/bin/kubelet usr/bin/kubeadm usr/bin/kubectl usr/bin/crictl
        readlink opt/cni/bin/bridge
        grep -H bin_dir etc/containerd/config.toml
        grep -H sandbox_image etc/containerd/config.toml
        ls -d etc/systemd/system/multi-user.target.wants/kubelet.service
        ls -d etc/systemd/system/multi-user.target.wants/vllmd-join.service
        ls usr/lib/modules/*/kernel/net/bridge/br_netfilter.ko*
        find etc/apt -type f
        find . -xdev -name '*vllmd-kubernetes*' -not -path './usr/share/vllmd/*'
    """
    seen = output("unshare", "--mount", "sh", "-euc", script, "sh", out / "system.raw", mount)
    for name in ("kubelet", "kubeadm", "kubectl", "crictl"):
        assert f"{hashlib.sha256((files / name).read_bytes()).hexdigest()}  usr/bin/{name}" in seen, seen
    assert "/usr/lib/cni/bridge" in seen, seen
    assert 'bin_dir = "/opt/cni/bin"' in seen, seen
    assert 'sandbox_image = "registry.example.com/pause:3.10"' in seen, seen
    assert "/keyrings/" not in seen and ".sources" not in seen, f"the repository stayed in the image: {seen}"
    sizes = json.loads((out / "sizes.json").read_text())
    assert sizes["layers"]["vllmd-kubernetes-node"] > (files / "kubectl").stat().st_size, sizes["layers"]
    assert {"kubelet.service", "vllmd-join.service"} <= {*sizes["services"]}, sizes["services"]
    print(f"  {json.dumps(sizes['layers'])}", flush=True)


def refused(name: str, sentence: str, work: Path, cache: Path, variables: dict[str, str]) -> None:
    """Build what has to be refused, and see why."""
    try:
        build(name, work, cache, variables)
    except dib.BuildError as error:
        assert sentence in str(error), f"{sentence!r} is not in: {error}"
        assert "\n" not in str(error)
        print(f"ok: refused: {error}", flush=True)
    else:
        raise AssertionError(f"{name}: built what has to be refused ({sentence})")


def main() -> int:
    """Run the four builds; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--cache", type=Path, default=Path("/var/cache/vllmd/dib"))
    parser.add_argument("--only", nargs="*", default=["files", "repository", "tampered", "skewed"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vllmd-kubernetes-node-", dir=options.work) as directory:
        work = Path(directory)
        files = programs(work / "given")
        more = {"SANDBOX_IMAGE": "registry.example.com/pause:3.10"}
        if "files" in options.only:
            inspect(build("files", work, options.cache, {"DIR": str(files), **more}), files, work)
            print("ok: from files", flush=True)
        if "repository" in options.only:
            key = repository(work / "apt", files, work)
            source = {"APT": f"deb file:{work}/apt ./", "APT_KEY": str(key), "VERSION": VERSION}
            inspect(build("repository", work, options.cache, {**source, **more}), files, work)
            print("ok: from a signed repository", flush=True)
        if "tampered" in options.only:
            broken = Path(shutil.copytree(files, work / "tampered-files"))
            (broken / "kubelet").write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
            refused("tampered", "kubelet has sha256", work, options.cache, {"DIR": str(broken)})
        if "skewed" in options.only:
            variables = {"DIR": str(files), "VERSION": "1.33"}
            refused("skewed", "DIB_VLLMD_KUBERNETES_VERSION asks for 1.33", work, options.cache, variables)
    print("kubernetes_node: done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
