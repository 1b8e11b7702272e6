"""Packages and source packages of a Debian release, fetched by apt with lists of its own, from this machine's mirrors.

The machine's packages, lists and sources are left alone; its mirrors and how it reaches them are used. What apt fetched
was checked against the archive's signature.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class DownloadError(Exception):
    """One line for a person: what was not fetched, and what to do."""


def mirrors() -> list[tuple[str, str]]:
    """What follows the code name in a suite ("", "-updates", "-security") and the mirror's address, each once.

    Raises DownloadError when apt knows no Debian mirror.
    """
    listed = subprocess.run(
        ["apt-get", "indextargets", "Created-By: Packages", "Origin: Debian", "--format", "$(RELEASE) $(REPO_URI)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    found = []
    for line in dict.fromkeys(filter(None, listed)):
        suite, uri = line.split(" ", 1)
        _, dash, kind = suite.partition("-")  # bookworm, bookworm-updates, bookworm-security
        if not kind.startswith("backports"):
            found.append((dash + kind, uri))
    if not found:
        raise DownloadError("apt knows no Debian mirror (apt-get indextargets is empty); run apt-get update first")
    return list(dict.fromkeys(found))


class Archive:
    """A release's archive, read with lists that lie below `work`."""

    def __init__(self, release: str, work: Path) -> None:
        """Read the archive's lists. Raises DownloadError."""
        self.release = release
        (work / "lists/partial").mkdir(parents=True)
        (work / "cache/archives/partial").mkdir(parents=True)
        lines = [
            f"{kind} [signed-by={KEYRING}] {uri} {release}{suffix} main\n"
            for suffix, uri in mirrors()
            for kind in ("deb", "deb-src")
        ]
        (work / "sources.list").write_text("".join(lines), encoding="utf-8")
        self.options = [
            f"-oDir::Etc::SourceList={work / 'sources.list'}",
            "-oDir::Etc::SourceParts=/dev/null",
            f"-oDir::State::Lists={work / 'lists'}",
            f"-oDir::Cache={work / 'cache'}",
            "-oAPT::Sandbox::User=root",  # the directory belongs to this user alone
        ]
        self._run("apt-get", "update")

    def _run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        command = [program, *self.options, "--quiet", *arguments]
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            said = (result.stderr or result.stdout).strip().splitlines() or ["no output"]
            raise DownloadError(f"{program} {' '.join(arguments)} for {self.release} failed: {said[-1]}")
        return result.stdout

    def packages(self, wanted: dict[str, str], tree: Path) -> None:
        """Unpack packages, each at exactly its version, into `tree`. Raises DownloadError."""
        downloads = tree.with_name(f"{tree.name}.debs")
        downloads.mkdir()
        for name, version in wanted.items():
            try:
                self._run("apt-get", "download", f"{name}={version}", cwd=downloads)
            except DownloadError as error:
                raise DownloadError(f"{error}; {self._offered('madison', name)}") from None
        for package in sorted(downloads.glob("*.deb")):
            subprocess.run(["dpkg-deb", "--extract", str(package), str(tree)], check=True)

    def source(self, name: str, version: str, tree: Path) -> None:
        """Unpack a source package, with Debian's patches, as `tree`. Raises DownloadError."""
        downloads = tree.with_name(f"{tree.name}.dsc")
        downloads.mkdir()
        try:
            self._run("apt-get", "source", "--download-only", f"{name}={version}", cwd=downloads)
        except DownloadError as error:
            raise DownloadError(f"{error}; {self._offered('showsrc', name)}") from None
        (description,) = downloads.glob("*.dsc")
        # apt has checked the archive's signature and every file's digest; the maintainer's keyring need not be here.
        command = ["dpkg-source", "--no-check", "--extract", str(description), str(tree)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise DownloadError(f"dpkg-source could not unpack {description.name}: {result.stderr.strip()}")

    def _offered(self, command: str, name: str) -> str:
        """What the mirrors have instead, as the end of a sentence."""
        text = self._run("apt-cache", command, name)
        if command == "madison":
            versions = [line.split("|")[1].strip() for line in text.splitlines() if line.count("|") == 2]
        else:
            versions = [line.partition(" ")[2] for line in text.splitlines() if line.startswith("Version: ")]
        return f"the mirrors have {', '.join(dict.fromkeys(versions)) or 'none'}: name one of them"
