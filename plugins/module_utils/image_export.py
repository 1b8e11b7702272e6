# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The root file system of a published image in other forms: qcow2 for clouds, squashfs for bare metal, an OCI image.

Each form lies beside the image, appears by one rename, is listed with its digests in ``exports.json``, and is made
again only when the image or the way it is made changed. The system image is mounted read-only in namespaces that end
with the command that reads it, however that ends.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import atomic, image_manifest, images, locks, oci_layout
from .digests import FileDigest, digest_file
from .image_manifest import ImageError
from .signals import signals_raise
from .signatures import Signer

EXPORTS_NAME = "exports.json"
SIGNATURE_NAME = "exports.sig"
#: Format to the name that it has beside the image.
NAMES = {"qcow2": "system.qcow2", "squashfs": "system.squashfs", "oci": "oci"}
#: Raise a number when the same image would give other bytes.
_RECIPES = {"qcow2": 1, "squashfs": 1, "oci": 1}
_PROGRAMS = {
    "qcow2": ("qemu-img", "qemu-utils"),
    "squashfs": ("mksquashfs", "squashfs-tools"),
    "oci": ("tar", "tar"),
}
_ENGINE = ["/opt/vllmd/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
_CACHE = "/var/lib/vllmd/cache"
_ENVIRONMENT = {
    "HOME": _CACHE,
    "HF_HOME": f"{_CACHE}/huggingface",
    "VLLM_CACHE_ROOT": f"{_CACHE}/vllm",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",
}
_PATH = "PATH=/opt/vllmd/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Mounts the image $1 at $2 and becomes the rest of the arguments.
_MOUNTED = 'mount -t ext4 -o ro,loop,noload,nodev,nosuid "$1" "$2"; cd "$2"; shift 2; exec "$@"'


def epoch_of(manifest: Mapping[str, Any]) -> int:
    """Return the time that the exports carry, in seconds since 1970: what the build set, else when it was made."""
    epoch = manifest.get("build", {}).get("source_date_epoch") if isinstance(manifest.get("build"), Mapping) else None
    if isinstance(epoch, int):
        return epoch
    try:
        created = datetime.strptime(manifest["created"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise ImageError(f"the manifest's created is no time: {manifest['created']!r}; build the image again") from None
    return int(created.timestamp())


def reading(image: Path, mount_point: Path, command: Sequence[str]) -> list[str]:
    """Return the command that runs ``command`` in the mounted ``image``; mount and loop device end with it.

    setpriv ties it to the calling process, ``--kill-child`` the namespace to unshare; a mount of a mount namespace ends
    with its last process, and with the mount goes the loop device (mount(8), autoclear).
    """
    namespaces = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL"]
    shell = ["sh", "-euc", _MOUNTED, "sh", str(image), str(mount_point)]
    return ["setpriv", "--pdeathsig", "KILL", "--", *namespaces, "--", *shell, *command]


def _qcow2(source: Path, work: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    del manifest
    options = "compat=1.1,compression_type=zstd"
    target = work / NAMES["qcow2"]
    _run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, str(source), str(target)])
    return {}


def _squashfs(source: Path, work: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    command = ["mksquashfs", ".", str(work / NAMES["squashfs"]), "-noappend", "-no-progress", "-quiet"]
    command += ["-comp", "zstd", "-Xcompression-level", "9", "-reproducible"]
    command += ["-mkfs-time", str(epoch_of(manifest)), "-e", "lost+found"]
    _run(reading(source, _mount_point(work), command))
    return {}


def tar_command(epoch: int) -> list[str]:
    """Return the command that writes the current directory as a tar archive, always the same for the same tree."""
    return [
        "tar",
        "--create",
        "--format=pax",
        # Names of extended headers would carry the number of the process.
        "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
        "--sort=name",
        "--numeric-owner",
        f"--mtime=@{epoch}",
        "--clamp-mtime",
        "--xattrs",
        "--xattrs-include=*",
        "--one-file-system",
        "--exclude=./lost+found",
        ".",
    ]


def _oci(source: Path, work: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    epoch = epoch_of(manifest)
    target = work / NAMES["oci"]
    target.mkdir()
    command = reading(source, _mount_point(work), tar_command(epoch))
    log = work / "tar.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=_environment()
        )
        try:
            if process.stdout is None:
                raise ImageError("tar has no output")  # cannot be: it was asked for
            digests = oci_layout.write(
                target,
                process.stdout,
                architecture=manifest["debian"]["architecture"],
                created=datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                config=execution(manifest),
                reference=f"{manifest['name']}-{manifest['version']}",
                labels={
                    "org.opencontainers.image.title": manifest["name"],
                    "org.opencontainers.image.version": manifest["version"],
                    "com.vllmd.inputs-digest": manifest["inputs_digest"],
                },
            )
        finally:
            if process.stdout:
                process.stdout.close()  # tar ends, if it has not
            process.wait()
    if process.returncode != 0:
        raise ImageError(f"reading {source} failed: {_last_line(log.read_bytes())}")
    log.unlink()
    return {"digests": digests}


def execution(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the execution parameters of the OCI image: the engine as its user, or systemd where there is no engine."""
    if not {"vllmd-vllm", "vllmd-runtime"} <= {*manifest["elements"]}:
        return {"Env": [_PATH], "Entrypoint": ["/lib/systemd/systemd"], "StopSignal": "SIGRTMIN+3"}
    return {
        "User": "vllmd",
        "Env": [_PATH, *(f"{name}={value}" for name, value in _ENVIRONMENT.items())],
        "Entrypoint": _ENGINE,
        "ExposedPorts": {"8000/tcp": {}},
        "WorkingDir": "/var/lib/vllmd",
        "Volumes": {_CACHE: {}},
    }


_MAKERS: dict[str, Callable[[Path, Path, Mapping[str, Any]], dict[str, Any]]] = {
    "qcow2": _qcow2,
    "squashfs": _squashfs,
    "oci": _oci,
}


def _mount_point(work: Path) -> Path:
    point = work / "mount"
    point.mkdir(exist_ok=True)
    return point


def _environment() -> dict[str, str]:
    # SOURCE_DATE_EPOCH would contradict the time that is given.
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL, env=_environment())
    if done.returncode != 0:
        program = next((word for word in command if word in ("qemu-img", "mksquashfs")), command[0])
        raise ImageError(f"{program} failed: {_last_line(done.stderr or done.stdout)}; correct that and export again")


def _last_line(output: bytes) -> str:
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:300] if lines else "it said nothing"


def check_programs(formats: Sequence[str]) -> None:
    """Raise ImageError when a program that one of ``formats`` needs is not installed."""
    for each in formats:
        program, package = _PROGRAMS[each]
        if shutil.which(program, path=_environment()["PATH"]) is None:
            raise ImageError(f"export {each} needs {program}, which is not installed; install the package {package}")


def load(directory: Path) -> dict[str, Any]:
    """Return the content of exports.json in a version's directory; an empty list of exports when there is none."""
    try:
        found = json.loads((directory / EXPORTS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("exports"), dict):
        return {"exports": {}}
    return found


def outdated(
    directory: Path, manifest: Mapping[str, Any], formats: Sequence[str], file_digest: FileDigest = digest_file
) -> dict[str, str]:
    """Return those of ``formats`` that have to be made, with the reason in words. Reads files that changed, only."""
    exports = load(directory)["exports"]
    reasons = {each: _why(directory, manifest, each, exports.get(each), file_digest) for each in formats}
    return {each: reason for each, reason in reasons.items() if reason}


def _why(directory: Path, manifest: Mapping[str, Any], name: str, entry: object, file_digest: FileDigest) -> str:
    if not isinstance(entry, dict):
        return "was never made"
    if entry.get("recipe") != _RECIPES[name]:
        return "is made in another way now"
    if entry.get("system_image") != manifest["files"]["system.raw"]["sha256"]:
        return "is of another system image"
    files = entry.get("files")
    if not isinstance(files, dict) or not files:
        return "has no list of its files"
    for relative, expected in files.items():
        path = directory / relative
        try:
            same = path.stat().st_size == expected["size_bytes"]
            if not same or file_digest(path) != f"sha256:{expected['sha256']}":
                return f"was changed: {relative}"
        except (OSError, KeyError, TypeError):
            return f"lacks {relative}"
    return ""


def export(
    store: Path,
    name: str,
    version: str,
    formats: Sequence[str],
    *,
    file_digest: FileDigest = digest_file,
    signer: Signer | None = None,
    lock_timeout: float = 0,
) -> dict[str, float]:
    """Make those of ``formats`` that are not as they should be. Returns format to the seconds that it took.

    The system image is checked against its manifest before anything is made of it. Raises ImageError, LockedError,
    OSError, and Interrupted after a signal; then what was there before is there still, and nothing is mounted.
    """
    check_programs(formats)
    spent: dict[str, float] = {}
    with signals_raise(), locks.exclusive(images.lock_path(store, name), f"image {name}", lock_timeout):
        images.clean(store, name)
        directory = images.image_path(store, name, version)
        manifest = image_manifest.load(directory)
        todo = outdated(directory, manifest, formats, file_digest)
        if todo:
            image_manifest.check_digests(directory, manifest, file_digest)
        for each in todo:
            started = time.monotonic()
            _make(store, directory, manifest, each)
            spent[each] = round(time.monotonic() - started, 1)
        if todo or is_unsigned(directory, signer):
            _sign(directory, signer)
    return spent


def _make(store: Path, directory: Path, manifest: Mapping[str, Any], name: str) -> None:
    published = directory.stat()
    # Beside the version, where `images.clean` finds what a killed process leaves.
    work = images.partial_path(store, manifest["name"], manifest["version"])
    work.mkdir(mode=0o700)
    try:
        more = _MAKERS[name](directory / "system.raw", work, manifest)
        made = work / NAMES[name]
        target = directory / NAMES[name]
        for path in [made, *made.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o444)
        entry = {
            "recipe": _RECIPES[name],
            "system_image": manifest["files"]["system.raw"]["sha256"],
            "files": _listed(made, work),
            **more,
        }
        atomic.fsync_tree(work)
        _forget(directory, name)
        if target.exists():
            target.rename(work / "old")
        made.rename(target)
        content = {**load(directory)["exports"], name: entry}
        _write(directory, manifest, content)
        # The directory's time is the time of publication.
        os.utime(directory, ns=(published.st_atime_ns, published.st_mtime_ns))
    finally:
        images.remove_tree(work)


def _listed(made: Path, work: Path) -> dict[str, dict[str, Any]]:
    paths = sorted(path for path in made.rglob("*") if path.is_file()) if made.is_dir() else [made]
    return {
        str(path.relative_to(work)): {
            "sha256": digest_file(path).removeprefix("sha256:"),
            "size_bytes": path.stat().st_size,
        }
        for path in paths
    }


def _forget(directory: Path, name: str) -> None:
    """Take ``name`` out of the list before its files change, so that the list never says what is not so."""
    content = load(directory)
    if name in content["exports"]:
        del content["exports"][name]
        atomic.write_file(directory / EXPORTS_NAME, _json(content), 0o444)


def _write(directory: Path, manifest: Mapping[str, Any], exports: Mapping[str, Any]) -> None:
    content = {
        "schema_version": 1,
        "name": manifest["name"],
        "version": manifest["version"],
        "exports": dict(sorted(exports.items())),
    }
    atomic.write_file(directory / EXPORTS_NAME, _json(content), 0o444)


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def is_unsigned(directory: Path, signer: Signer | None) -> bool:
    """Return whether the list of exports lacks the signature of ``signer``; no without a signer or a list."""
    content = (directory / EXPORTS_NAME).read_bytes() if (directory / EXPORTS_NAME).is_file() else b""
    path = directory / SIGNATURE_NAME
    return bool(signer and content and (not path.is_file() or path.read_bytes() != signer.sign(content)))


def _sign(directory: Path, signer: Signer | None) -> None:
    """Sign the list of exports as it is now; without a key remove a signature that no longer fits."""
    path = directory / SIGNATURE_NAME
    if signer is None:
        path.unlink(missing_ok=True)
    else:
        atomic.write_file(path, signer.sign((directory / EXPORTS_NAME).read_bytes()), 0o444)


def remove(store: Path, name: str, version: str, formats: Sequence[str], lock_timeout: float = 0) -> list[str]:
    """Remove exports of a version; return which there were. Raises ImageError, LockedError, OSError."""
    with locks.exclusive(images.lock_path(store, name), f"image {name}", lock_timeout):
        directory = images.image_path(store, name, version)
        published = directory.stat()
        there = [each for each in formats if (directory / NAMES[each]).exists() or each in load(directory)["exports"]]
        for each in there:
            _forget(directory, each)
            images.remove_tree(directory / NAMES[each])
        if there and not load(directory)["exports"]:
            (directory / EXPORTS_NAME).unlink(missing_ok=True)
        if there:
            _sign(directory, None)
        os.utime(directory, ns=(published.st_atime_ns, published.st_mtime_ns))
    return there
