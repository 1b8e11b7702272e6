# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Build an image when its inputs changed, and leave nothing behind when that fails."""

from __future__ import annotations

import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import atomic, build_cleanup, dib, image_inputs, image_layers, image_manifest, image_sbom, images, locks
from .digests import DigestCache
from .image_manifest import ImageError
from .image_plan import Plan, Request, collect_inputs, plan
from .signals import signals_ignored, signals_raise

#: Beside the manifest and not signed: how the build went, which differs from one build to the next.
BUILD_NAME = "build.json"


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
    layers_dir = request.work_dir / "layers"
    for directory in (
        request.work_dir / "tmp",
        layers_dir,
        request.cache_dir / "dib",
        request.store_dir / request.name,
    ):
        atomic.make_directory(directory)
    partial = images.partial_path(request.store_dir, request.name, todo.version)
    partial.mkdir(mode=0o755)
    with image_layers.in_use(request.cache_dir):
        work = _Layers(request, todo.inputs, cache)
        try:
            _run(request, partial, {**build_environment(request), **work.environment})
            check_unchanged(request, todo, cache)
        except dib.BuildError:
            # What was finished before is worth as much as ever, unless it was made from something else.
            if not _changed(request, todo, cache):
                work.keep()
            raise
        work.keep()
    facts = read_facts(partial, request.log_path)
    for path in partial.iterdir():
        if path.name in image_manifest.FILE_NAMES:
            path.chmod(0o444)
        else:
            images.remove_tree(path)
    facts["layers"] = work.facts()
    facts["build"] = {**facts.get("build", {}), **builder_facts()}
    manifest = image_manifest.compose(partial, request.name, todo.inputs, facts, cache.digest)
    image_sbom.write(partial, manifest)
    atomic.write_file(partial / BUILD_NAME, _json(work.report()), 0o444)
    target = images.publish(partial, request.store_dir, manifest, request.signer.sign if request.signer else None)
    for name, entry in manifest["files"].items():
        cache.record(target / name, "sha256:" + entry["sha256"])


def _run(request: Request, partial: Path, environment: dict[str, str]) -> None:
    build = dib.Build(
        program=request.program,
        elements=request.elements,
        elements_paths=request.elements_paths,
        architecture=request.architecture,
        output_directory=partial,
        temporary_directory=request.work_dir / "tmp",
        cache_directory=request.cache_dir / "dib",
        log_path=request.log_path,
        environment=environment,
    )
    dib.run(build, os.environ)


class _Layers:
    """The layers of one build: where it starts, what it leaves for later ones, and what is told of them.

    Call within `image_layers.in_use`. Without a cache of layers (``layers_max_mib`` 0) all of it does nothing.
    """

    def __init__(self, request: Request, inputs: dict[str, str], cache: DigestCache) -> None:
        self._cache = request.cache_dir
        self._enabled = request.layers_max_mib > 0
        self._written = request.work_dir / "layers"
        self._started = time.time()
        elements = image_inputs.resolve_elements(request.elements, request.elements_paths)
        self._layers = image_layers.keys(inputs, elements, cache.digest)
        self._start = image_layers.deepest(self._cache, self._layers) if self._enabled else None
        self.environment: dict[str, str] = {}
        if self._enabled:
            (self._written / "since").write_text(f"{int(self._started)}\n", encoding="ascii")
            self.environment["DIB_VLLMD_LAYERS_DIR"] = str(self._written)
        if self._start:
            image_layers.touch(self._cache, self._start.key)
            self.environment["DIB_VLLMD_LAYER"] = str(image_layers.tree_path(self._cache, self._start.key))
            self.environment["DIB_VLLMD_LAYER_NAME"] = self._start.name
            self.environment["DIB_VLLMD_LAYER_LAST"] = str(self._start.last)
        self._rows: list[dict[str, Any]] = []

    def keep(self) -> None:
        """Move the layers that were finished into the cache."""
        self._rows = image_layers.report(self._written, self._layers, self._start, self._cache, self._started)
        for layer, row in zip(self._layers, self._rows, strict=False):
            archive = self._written / f"{layer.name}.tar"
            if self._enabled and archive.is_file():
                created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                image_layers.keep(self._cache, layer, archive, {"seconds": row["seconds"], "created": created})

    def facts(self) -> list[dict[str, str]]:
        """Return what the manifest says: names and keys, which do not depend on what was reused."""
        return [{"name": layer.name, "key": layer.key} for layer in self._layers]

    def report(self) -> dict[str, Any]:
        """Return the content of build.json: how this one build went, nothing that another one has to repeat."""
        finished = time.time()
        return {
            "schema_version": 1,
            "started": _utc(self._started),
            "finished": _utc(finished),
            "seconds": round(finished - self._started),
            "host_kernel": platform.release(),
            "layers": self._rows,
        }


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def builder_facts() -> dict[str, str]:
    """Return what the manifest says of the builder; versions of its tools are inputs."""
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    name = f"{system.get('ID', 'linux')} {system.get('VERSION_ID', '')}".strip()
    return {"system": name, "python": platform.python_version()}


def check_unchanged(request: Request, todo: Plan, cache: DigestCache) -> None:
    """Raise ImageError when an input changed during the build: the image would not be what its version says."""
    changed = _changed(request, todo, cache)
    if changed:
        raise ImageError(
            f"{', '.join(changed)} changed while the image was built; build it again (nothing was published)"
        )


def _changed(request: Request, todo: Plan, cache: DigestCache) -> list[str]:
    tools = {label.removeprefix("tool "): value for label, value in todo.inputs.items() if label.startswith("tool ")}
    return image_inputs.changes(todo.inputs, collect_inputs(request, cache, tools))


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
    image_layers.collect(request.cache_dir, request.layers_max_mib)
    return removed
