"""Debian packages made on the spot, and a signed apt repository of them (needs dpkg-deb and gpg)."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path


def output(*command: str | Path, **options: object) -> str:
    """Return what a command prints; its failure is subprocess.CalledProcessError."""
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True, **options).stdout  # type: ignore[call-overload, no-any-return]


def package(
    target: Path, name: str, version: str, files: Mapping[str, Path | str], compression: str | None = None
) -> Path:
    """Make ``<name>.deb`` in ``target``; ``files`` maps a path in the package to a file, or to a program's text.

    ``compression`` is dpkg-deb's name of one that is quicker than its default, for big programs.
    """
    tree = target / f".{name}"
    (tree / "DEBIAN").mkdir(parents=True)
    control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: test <t@invalid>\n"
    (tree / "DEBIAN/control").write_text(f"{control}Description: stands for {name}\n", encoding="utf-8")
    for path, content in files.items():
        place = tree / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copy(content, place)
        else:
            place.write_text(content, encoding="utf-8")
            place.chmod(0o755)
    deb = target / f"{name}.deb"
    quicker = [f"-Z{compression}"] if compression else []
    output("dpkg-deb", *quicker, "--build", "--root-owner-group", tree, deb)
    shutil.rmtree(tree)
    return deb


def sign(target: Path, work: Path) -> Path:
    """Make ``target``, which holds packages, a flat repository signed with a new key; return its public half.

    ``work`` keeps the key's home and ``key.asc``.
    """
    stanzas = []
    for deb in sorted(target.glob("*.deb")):
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        fields = output("dpkg-deb", "-f", deb)
        stanzas.append(f"{fields}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n")
    packages = "\n".join(stanzas).encode()
    (target / "Packages").write_bytes(packages)
    date = time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime())
    release = f"Date: {date}\nSuite: ./\nSHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    (target / "Release").write_text(release, encoding="utf-8")
    home = work / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--yes", "--pinentry-mode", "loopback", "--passphrase", ""]
    output(*gpg, "--quick-generate-key", "Test <test@invalid>", "rsa3072", "sign", "never")
    output(*gpg, "--output", target / "InRelease", "--clearsign", target / "Release")
    (work / "key.asc").write_text(output(*gpg, "--armor", "--export"), encoding="utf-8")
    return work / "key.asc"
