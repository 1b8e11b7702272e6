# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Build an image when its inputs changed, and leave nothing behind when that fails."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from . import (
    atomic,
    build_cleanup,
    dib,
    image_inputs,
    image_manifest,
    image_report,
    image_sbom,
    images,
    locks,
    signatures,
)
from .digests import DigestCache
from .image_manifest import ImageError
from .signals import signals_ignored, signals_raise

#: Host programs that write into an image; their Debian packages' versions are inputs.
_TOOL_PACKAGES = ("debootstrap", "mmdebstrap", "e2fsprogs")


@dataclass(frozen=True)
class Request:
    """Everything that the module image_build was asked for; paths are absolute, sizes in MiB, times in seconds."""

    name: str
    profile: str
    release: str
    architecture: str
    elements: list[str]
    elements_paths: list[Path]
    environment: dict[str, str]
    models: dict[str, Path]
    wheelhouse: Path | None
    serial: str
    mirror: str | None
    security_mirror: str | None
    cache_dir: Path
    store_dir: Path
    build_dir: Path
    log_path: Path
    min_free_mib: int
    keep: int
    lock_timeout: float
    program: Path
    #: Signs what is published; it is no input, so the version does not depend on it.
    signer: signatures.Signer | None = None

    @property
    def work_dir(self) -> Path:
        """The directory below build_dir that belongs to this image's build alone."""
        return self.build_dir / self.name


@dataclass
class Plan:
    """What has to be done: ``action`` is ``none``, ``sign``, ``link`` or ``build``, ``reason`` says why in words.

    ``unsigned`` says why the published version has to be signed, alone (``sign``) or before the link moves (``link``).
    """

    action: str
    reason: str
    version: str
    inputs: dict[str, str]
    before: dict[str, Any] | None
    changed_inputs: list[str] = field(default_factory=list)
    unsigned: str = ""


def host_architecture() -> str:
    """Return this machine's Debian architecture name."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def tool_versions() -> dict[str, str]:
    """Return the versions of the programs that shape an image. Raises ImageError without diskimage-builder."""
    try:
        versions = {"diskimage-builder": metadata.version("diskimage-builder")}
    except metadata.PackageNotFoundError:
        raise ImageError(
            f"diskimage-builder is not installed for {sys.executable}; "
            "install it there, or set ansible_python_interpreter to the Python of an environment that has it"
        ) from None
    query = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status} ${Version}\n", *_TOOL_PACKAGES]
    try:
        output = subprocess.run(query, check=False, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return versions  # no Debian host: diskimage-builder's version has to do
    for line in output.splitlines():
        name, status, version = line.split(" ")
        if status == "installed":
            versions[name] = version
    return versions


def collect_inputs(
    request: Request, cache: DigestCache, tools: Mapping[str, str], missing_ok: bool = False
) -> dict[str, str]:
    """Return the request's inputs; ``missing_ok`` as for `image_inputs.collect`. Raises InputError."""
    settings = {"profile": request.profile, "release": request.release, "architecture": request.architecture}
    if request.serial:
        settings["serial"] = request.serial
    return image_inputs.collect(
        settings=settings,
        elements=request.elements,
        elements_paths=request.elements_paths,
        environment=request.environment,
        models=request.models,
        wheelhouse=request.wheelhouse,
        tools=tools,
        file_digest=cache.digest,
        missing_ok=missing_ok,
    )


def plan(request: Request, inputs: dict[str, str]) -> Plan:
    """Compare the inputs with what is published; reads manifests and sizes, no image. Never raises ImageError."""
    version = image_inputs.version_of(image_inputs.inputs_digest(inputs))
    latest = images.latest_version(request.store_dir, request.name)
    before = _manifest(request.store_dir / request.name / latest) if latest else None
    target = request.store_dir / request.name / version
    if target.is_dir():
        try:
            content = image_manifest.read(target)
            image_manifest.check_sizes(target, image_manifest.parse(target, content))
            unsigned = signatures.why_unsigned(target, content, request.signer) if request.signer else ""
        except ImageError as error:
            return Plan("build", f"the published image is damaged: {error}", version, inputs, before)
        if latest == version:
            action, reason = ("sign", unsigned) if unsigned else ("none", "inputs are unchanged")
            return Plan(action, reason, version, inputs, before, unsigned=unsigned)
        labels = image_inputs.changes(before and before["inputs"], inputs)
        reason = f"version {version} was built before from these inputs"
        return Plan("link", reason, version, inputs, before, labels, unsigned)
    if before is None:
        return Plan("build", f"no image {request.name} is published", version, inputs, None)
    labels = image_inputs.changes(before["inputs"], inputs)
    return Plan("build", f"inputs changed: {', '.join(labels)}", version, inputs, before, labels)


def _manifest(directory: Path) -> dict[str, Any] | None:
    try:
        return image_manifest.load(directory)
    except ImageError:
        return None


def leftovers(request: Request) -> list[str]:
    """Return what a killed, or another running, build of this image has lying around."""
    found = [str(path) for path in images.leftovers(request.store_dir, request.name)]
    return [*found, str(request.work_dir)] if request.work_dir.exists() else found


def apply(request: Request, todo: Plan, cache: DigestCache) -> dict[str, Any]:
    """Bring the store to what ``todo`` says. Returns ``changed``, ``reason``, ``cleaned`` and ``removed``.

    Whatever happens, no process, mount, loop device or temporary file of the build stays, and the store holds
    either what it held or the new version. Raises ImageError, BuildError, CleanupError, LockedError, OSError, and
    Interrupted after a signal.
    """
    result: dict[str, Any] = {"changed": False, "reason": todo.reason, "cleaned": [], "removed": []}
    if todo.action == "none" and not leftovers(request):
        return result
    lock = images.lock_path(request.store_dir, request.name)
    wait = 0 if todo.action == "none" else request.lock_timeout
    try:
        with signals_raise(), locks.exclusive(lock, f"image {request.name}", wait):
            result["cleaned"] = _clean(request)
            current = plan(request, todo.inputs)
            if current.action == "none" and todo.action != "none":
                done = "signed" if todo.action == "sign" else "built"
                result["reason"] = f"another process {done} it while this one waited ({todo.reason})"
            result.update(_carry_out(request, current, cache))
    except locks.LockedError:
        if todo.action != "none":
            raise
        # What lies around belongs to a build that runs; this image is as it should be.
    return result


def _carry_out(request: Request, todo: Plan, cache: DigestCache) -> dict[str, Any]:
    """Do what the plan says; the lock is held."""
    removed: list[str] = []
    if todo.unsigned and request.signer:
        images.add_signature(request.store_dir, request.name, todo.version, request.signer.sign)
    if todo.action == "link":
        images.set_latest(request.store_dir, request.name, todo.version)
    elif todo.action == "build":
        try:
            _build(request, todo, cache)
        finally:
            with signals_ignored():
                _clean(request)
        removed = _collect_garbage(request)
    return {"changed": todo.action != "none", "removed": removed}


def _clean(request: Request) -> list[str]:
    done = [f"removed {path}" for path in images.clean(request.store_dir, request.name)]
    return done + build_cleanup.clean_directory(request.work_dir)


def _build(request: Request, todo: Plan, cache: DigestCache) -> None:
    check_space(request)
    for directory in (request.work_dir / "tmp", request.cache_dir / "dib", request.store_dir / request.name):
        atomic.make_directory(directory)
    partial = images.partial_path(request.store_dir, request.name, todo.version)
    partial.mkdir(mode=0o755)
    dib.run(
        dib.Build(
            program=request.program,
            elements=request.elements,
            elements_paths=request.elements_paths,
            architecture=request.architecture,
            output_directory=partial,
            temporary_directory=request.work_dir / "tmp",
            cache_directory=request.cache_dir / "dib",
            log_path=request.log_path,
            environment=build_environment(request),
        ),
        os.environ,
    )
    check_unchanged(request, todo, cache)
    facts = read_facts(partial, request.log_path)
    for path in partial.iterdir():
        if path.name in (*image_manifest.FILE_NAMES, image_report.SIZES_NAME):
            path.chmod(0o444)
        else:
            images.remove_tree(path)
    manifest = image_manifest.compose(partial, request.name, todo.inputs, facts, cache.digest)
    image_sbom.write(partial, manifest)
    image_report.write_beside(
        partial,
        manifest,
        before=request.store_dir / request.name / todo.before["version"] if todo.before else None,
        log=request.log_path,
        signed_by=request.signer.public.key_id if request.signer else None,
    )
    target = images.publish(partial, request.store_dir, manifest, request.signer.sign if request.signer else None)
    for name, entry in manifest["files"].items():
        cache.record(target / name, "sha256:" + entry["sha256"])


def check_unchanged(request: Request, todo: Plan, cache: DigestCache) -> None:
    """Raise ImageError when an input changed during the build: the image would not be what its version says."""
    tools = {label.removeprefix("tool "): value for label, value in todo.inputs.items() if label.startswith("tool ")}
    changed = image_inputs.changes(todo.inputs, collect_inputs(request, cache, tools))
    if changed:
        raise ImageError(
            f"{', '.join(changed)} changed while the image was built; build it again (nothing was published)"
        )


def build_environment(request: Request) -> dict[str, str]:
    """Return the variables that the elements read (image-elements/README.md)."""
    environment = {
        "DIB_NO_TIMESTAMP": "1",
        "DIB_RELEASE": request.release,
        "DIB_VLLMD_PROFILE": request.profile,
        "DIB_VLLMD_MODELS": " ".join(f"{name}={path}" for name, path in request.models.items()),
        **request.environment,
    }
    optional = {
        "DIB_DISTRIBUTION_MIRROR": request.mirror,
        "DIB_DEBIAN_SECURITY_MIRROR": request.security_mirror,
        "DIB_VLLMD_WHEELHOUSE": str(request.wheelhouse) if request.wheelhouse else None,
    }
    environment.update({name: value for name, value in optional.items() if value})
    return environment


def read_facts(directory: Path, log: Path) -> dict[str, Any]:
    """Return the build's own report. Raises ImageError, which names the log."""
    path = directory / "facts.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ImageError(
            f"the build left no facts.json ({error.strerror}); is vllmd-debian among the elements? (log: {log})"
        ) from None
    except ValueError as error:
        raise ImageError(f"the build's facts.json is no JSON: {error} (log: {log})") from None
    if not isinstance(facts, dict):
        raise ImageError(f"the build's facts.json is no JSON object (log: {log})")
    return facts


def check_space(request: Request) -> None:
    """Raise ImageError when a filesystem that the build writes to has less than ``min_free_mib`` free."""
    for purpose, directory, variable in (
        ("build in", request.build_dir, "build_dir"),
        ("publish the image in", request.store_dir, "store_dir"),
    ):
        free, asked = build_cleanup.free_mib(directory)
        if free < request.min_free_mib:
            raise ImageError(
                f"not enough disk space to {purpose} {directory}: {request.min_free_mib} MiB needed, {free} MiB free "
                f"on the filesystem of {asked}; free some, or set {variable} to a larger filesystem"
            )


def _collect_garbage(request: Request) -> list[str]:
    used = images.open_files(request.store_dir / request.name)
    removed = images.removable(request.store_dir, request.name, request.keep, used)
    for version in removed:
        images.remove_version(request.store_dir, request.name, version)
    return removed


def default_program() -> Path:
    """Return the disk-image-create beside the running Python, or the one on PATH. Raises ImageError."""
    beside = Path(sys.executable).with_name("disk-image-create")
    if beside.is_file():
        return beside
    found = shutil.which("disk-image-create")
    if found is None:
        raise ImageError(
            f"disk-image-create is neither beside {sys.executable} nor on PATH; install diskimage-builder, "
            "or set ansible_python_interpreter to the Python of an environment that has it"
        )
    return Path(found)
