"""Check where the Kubernetes programs come from, and lay them out for the scripts in the tree. Runs on the builder.

Usage: vllmd_kubernetes_source.py TARGET

Reads DIB_VLLMD_KUBERNETES_*. From a directory of files: TARGET/files/<name>, each one hashed as it was copied. From a
repository: TARGET/vllmd-kubernetes.sources and the key beside it; TARGET/directory names a repository on this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REQUIRED = ("kubelet", "kubeadm", "kubectl", "crictl")
LISTS = ("SHA256SUMS", "files.yaml", "files.yml", "files.json")
#: ELF header, e_machine (System V ABI, "ELF Header"), by Debian's name of the architecture.
MACHINES = {"amd64": 0x3E, "arm64": 0xB7}
KEYRING = "/etc/apt/keyrings/vllmd-kubernetes"
REPOSITORY = "/tmp/vllmd-kubernetes-repository"  # noqa: S108 -- in the tree, where extra-data.d mounts it

_NAME = re.compile(r"(cni/)?[a-z0-9][a-z0-9._-]*")
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_LINE = re.compile(r"deb(?:\s+\[([^]]*)\])?\s+(\S+)\s+(\S+)(?:\s+(.*))?")


class SourceError(Exception):
    """Why the programs cannot be taken from there, in one sentence for a person."""


def digests(directory: Path) -> dict[str, str]:
    """Return file name to SHA-256 from the one list in ``directory``. Raises SourceError."""
    found = [name for name in LISTS if (directory / name).is_file()]
    if len(found) != 1:
        what = f"holds {' and '.join(found)}" if found else "holds no list of digests"
        raise SourceError(f"{directory} {what}; put exactly one of {', '.join(LISTS)} there")
    path = directory / found[0]
    try:
        text = path.read_text(encoding="utf-8")
        listed = _sums(text) if found[0] == "SHA256SUMS" else _document(text)
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    result = {}
    for name, digest in listed.items():
        match = _DIGEST.fullmatch(str(digest))
        if not _NAME.fullmatch(str(name)) or match is None:
            raise SourceError(
                f"{path}: {name!r}: {str(digest)[:80]!r} is no file name with a SHA-256; correct the list"
            )
        result[str(name)] = match[1]
    missing = [name for name in REQUIRED if name not in result]
    if missing:
        raise SourceError(f"{path} does not list {', '.join(missing)}; a node needs {', '.join(REQUIRED)}")
    return result


def _sums(text: str) -> dict[str, str]:
    """Return the entries of sha256sum's output."""
    entries = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            digest, _space, name = line.strip().partition(" ")
            entries[name.strip().removeprefix("*").removeprefix("./")] = digest
    return entries


def _document(text: str) -> dict[str, Any]:
    """Return the ``files`` of a JSON or YAML list: name to digest, or to an object with ``sha256``."""
    import yaml  # noqa: PLC0415 -- diskimage-builder brings it; the other form needs none

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, dict):
        raise ValueError("expected an object with files: {name: sha256}")
    return {name: entry.get("sha256", "") if isinstance(entry, dict) else entry for name, entry in files.items()}


def take(directory: Path, target: Path, architecture: str) -> dict[str, str]:
    """Copy every listed file to ``target`` and check the copy. Returns the digests. Raises SourceError."""
    listed = digests(directory)
    for name, expected in sorted(listed.items()):
        source, copy = directory / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, copy)
            content = copy.read_bytes()
        except OSError as error:
            raise SourceError(f"cannot take {source}: {error.strerror}; put the file there or leave it out") from None
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise SourceError(f"{source} has sha256 {found}, its list says {expected}; fetch the file again")
        if content[:4] == b"\x7fELF":
            machine = int.from_bytes(content[18:20], "little")
            if machine != MACHINES.get(architecture):
                raise SourceError(f"{source} is no program for {architecture}; take the {architecture} build")
        copy.chmod(0o755)
    return listed


def stanza(given: str) -> dict[str, list[str]]:
    """Return uris, suites and components of an apt source, one line or deb822, given as text or as a file's path.

    Raises SourceError for more than one source, and for one that asks apt not to check signatures.
    """
    text = given
    if given.startswith("/"):
        try:
            text = Path(given).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"cannot read DIB_VLLMD_KUBERNETES_APT={given}: {error}") from None
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    match = _LINE.fullmatch(lines[0].strip()) if len(lines) == 1 else None
    if match:
        options = dict(part.partition("=")[::2] for part in (match[1] or "").split())
        fields = {"uris": match[2], "suites": match[3], "components": match[4] or "", **options}
    else:
        fields, name = {}, ""
        for line in lines:
            if line[0] in " \t" and name:
                fields[name] += f" {line.strip()}"
                continue
            name, _colon, value = line.partition(":")
            name = name.strip().lower()
            if name in fields:
                raise SourceError(f"the apt source has {name} twice; give one source")
            fields[name] = value.strip()
    for option in ("trusted", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure"):
        if fields.get(option, "no").lower() in ("yes", "true", "1"):
            raise SourceError(f"the apt source says {option}={fields[option]}; only signed repositories are used")
    result = {name: fields.get(name, "").split() for name in ("uris", "suites", "components")}
    if len(result["uris"]) != 1 or not result["suites"]:
        raise SourceError(
            f"{text.strip()[:120]!r} is no apt source; give one line 'deb URI SUITE COMPONENT' or deb822 text"
        )
    if not re.match(r"(https?://|file:/)", result["uris"][0]):
        raise SourceError(f"apt source {result['uris'][0]}: only https, http and file are possible")
    return result


def lay_out(fields: Mapping[str, list[str]], key: Path, target: Path) -> None:
    """Write apt's source, signed by ``key`` alone, and the key to ``target``. Raises SourceError."""
    try:
        content = key.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read the repository's key {key}: {error.strerror}") from None
    if b"PRIVATE KEY" in content or not content:
        raise SourceError(f"{key} is no public key; give the repository's public signing key")
    suffix = "asc" if b"-----BEGIN PGP PUBLIC KEY BLOCK" in content else "gpg"
    uri = fields["uris"][0]
    if uri.startswith("file:"):
        directory = "/" + uri.removeprefix("file:").lstrip("/")
        if not Path(directory).is_dir():
            raise SourceError(f"apt source {uri}: {directory} is no directory of the builder")
        (target / "directory").write_text(directory, encoding="utf-8")
        uri = f"file:{REPOSITORY}"
    lines = ["Types: deb", f"URIs: {uri}", f"Suites: {' '.join(fields['suites'])}"]
    if fields["components"]:
        lines.append(f"Components: {' '.join(fields['components'])}")
    lines.append(f"Signed-By: {KEYRING}.{suffix}")
    (target / "vllmd-kubernetes.sources").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (target / f"vllmd-kubernetes.{suffix}").write_bytes(content)


def prepare(environment: Mapping[str, str], target: Path) -> None:
    """Lay out what ``environment`` gives in ``target``. Raises SourceError."""
    directory = environment.get("DIB_VLLMD_KUBERNETES_DIR", "")
    repository = environment.get("DIB_VLLMD_KUBERNETES_APT", "")
    key = environment.get("DIB_VLLMD_KUBERNETES_APT_KEY", "")
    if bool(directory) == bool(repository):
        what = "both are set" if directory else "neither is set"
        raise SourceError(
            "kubelet, kubeadm, kubectl and crictl come from DIB_VLLMD_KUBERNETES_DIR (a directory of files with "
            f"digests) or from DIB_VLLMD_KUBERNETES_APT (an apt repository), and {what}; set one"
        )
    target.mkdir(parents=True, exist_ok=True)
    if directory:
        listed = take(Path(directory), target / "files", environment["ARCH"])
        text = json.dumps({name: f"sha256:{digest}" for name, digest in sorted(listed.items())})
        (target / "files.json").write_text(text + "\n", encoding="utf-8")
        return
    if not key:
        raise SourceError(
            "DIB_VLLMD_KUBERNETES_APT has no key; set DIB_VLLMD_KUBERNETES_APT_KEY to the file of its signing key"
        )
    lay_out(stanza(repository), Path(key), target)


def main() -> int:
    """Prepare from dib's environment; return the exit status."""
    try:
        prepare(os.environ, Path(sys.argv[1]))
    except SourceError as error:
        print(f"vllmd-kubernetes-node: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
