# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What an image build was asked for, what its inputs are, and what has to be done for it."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from . import image_inputs, image_lock, image_manifest, images, signatures
from .digests import DigestCache
from .image_manifest import ImageError

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
    #: How much the cache of layers may take; 0 keeps and uses none.
    layers_max_mib: int = 0
    #: The lock file, what it says (None when there is none yet), and whether the build makes it or keeps to it.
    lock_path: Path | None = None
    lock: image_lock.Lock | None = None
    lock_update: bool = False
    #: Versions that stay in the store in any case, each as <image name>/<version>.
    pins: tuple[str, ...] = ()

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
    """Return the request's inputs; ``missing_ok`` as for `image_inputs.collect`.

    With a lock, what it pins is among them. Raises InputError, LockFileError when they are not those of the lock.
    """
    settings = {"profile": request.profile, "release": request.release, "architecture": request.architecture}
    if request.serial:
        settings["serial"] = request.serial
    inputs = image_inputs.collect(
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
    if request.lock_path and request.lock and not request.lock_update:
        known = {label: request.lock["inputs"].get(label, value) for label, value in inputs.items()}
        image_lock.check_inputs(
            request.lock_path,
            request.lock,
            request.name,
            {label: known[label] if value == image_inputs.MISSING else value for label, value in inputs.items()},
        )
        inputs.update(image_lock.inputs_of(request.lock))
    return dict(sorted(inputs.items()))


def plan(request: Request, inputs: dict[str, str]) -> Plan:
    """Compare the inputs with what is published; reads manifests and sizes, no image. Never raises ImageError."""
    version = image_inputs.version_of(image_inputs.inputs_digest(inputs))
    latest = images.latest_version(request.store_dir, request.name)
    before = _manifest(request.store_dir / request.name / latest) if latest else None
    target = request.store_dir / request.name / version
    if request.lock_update:
        # Which version comes out is known when it is built: what the mirrors serve becomes part of its inputs.
        return Plan("build", "the lock file is updated", version, inputs, before, [])
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
