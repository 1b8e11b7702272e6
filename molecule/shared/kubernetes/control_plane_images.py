#!/usr/bin/env python3
"""Make the container images that `kubeadm init` runs, as docker archives. Prints where they are.

Usage: control_plane_images.py PROGRAMS VERSION TREE [CACHE]   makes CACHE/images-DIGEST/*.tar once per set of inputs

PROGRAMS are Kubernetes' own, statically linked; TREE is a root file system with etcd and iptables, whose programs come
with the libraries they load. The images have the names that kubeadm asks for below bed.invalid. CoreDNS is not among
them: Debian does not have it.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from container_images import REGISTRY, image, pause, write

PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
ETCD = ("/usr/bin/etcd", "/usr/bin/etcdctl")
#: kube-proxy calls these; the rest of iptables are links to the second and files that it loads.
PACKET_FILTER = ("/usr/sbin/conntrack", "/usr/sbin/xtables-nft-multi")
LINKS = [f"usr/sbin/{family}{suffix}" for family in ("iptables", "ip6tables") for suffix in ("", "-save", "-restore")]


def from_tree(tree: Path, programs: tuple[str, ...]) -> dict[str, bytes | str]:
    """Return programs of the tree with the libraries that they load, under the paths where they are looked for."""
    found: dict[str, bytes | str] = {}
    for program in programs:
        listed = subprocess.run(["chroot", tree, "ldd", program], check=True, capture_output=True, text=True).stdout
        for path in (program, *re.findall(r"(/\S+) \(0x", listed)):
            found[path.lstrip("/")] = (tree / path.lstrip("/")).resolve().read_bytes()
    return found


def packet_filter(tree: Path) -> dict[str, bytes | str]:
    """Return iptables and its extensions."""
    found = from_tree(tree, PACKET_FILTER)
    for extension in sorted(tree.glob("usr/lib/*/xtables/*.so")):
        found[str(extension.relative_to(tree))] = extension.read_bytes()
    return {**found, **dict.fromkeys(LINKS, "xtables-nft-multi")}


def names(programs: Path, version: str) -> dict[str, str]:
    """Return the images that kubeadm asks for, by the last part of their name."""
    command = [programs / "kubeadm", "config", "images", "list", "--image-repository", REGISTRY]
    command += ["--kubernetes-version", f"v{version}"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {name.rpartition("/")[2].partition(":")[0]: name for name in listed}


def make(target: Path, programs: Path, version: str, tree: Path) -> None:
    """Make the images beside `target` and rename; nothing stays of what fails."""
    for leftover in target.parent.glob(f".{target.name}.*"):  # of a run that was killed; the lock is ours
        shutil.rmtree(leftover)
    known = names(programs, version)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name:
        out = Path(name, "out")
        out.mkdir(mode=0o755)
        for program in PROGRAMS:
            members = packet_filter(tree) if program == "kube-proxy" else {}
            members[f"usr/local/bin/{program}"] = (programs / program).read_bytes()
            write(out / f"{program}.tar", image(known[program], [f"/usr/local/bin/{program}"], members, PATH))
        write(out / "etcd.tar", image(known["etcd"], [ETCD[0]], from_tree(tree, ETCD), PATH))
        write(out / "pause.tar", image(known["pause"], ["/pause"], {"pause": pause()}))
        out.rename(target)


def main() -> int:
    """Make the images where there are none yet; return the exit status."""
    programs, version, tree = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    cache = Path(sys.argv[4] if len(sys.argv) > 4 else "/var/cache/vllmd/kubernetes")
    try:
        digest = hashlib.sha256(f"{version}\0{tree.name}".encode())
        for path in (*(programs / name for name in PROGRAMS), *sorted(Path(__file__).parent.glob("*_images.py"))):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        cache.mkdir(parents=True, exist_ok=True)
        target = cache / f"images-{digest.hexdigest()[:12]}"
        with (cache / f"{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another scenario may be making the same
            if not target.is_dir():
                make(target, programs, version, tree)
    except (OSError, KeyError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or ""
        print(f"the images of a control plane were not made: {error} {said}".strip(), file=sys.stderr)
        return 1
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
