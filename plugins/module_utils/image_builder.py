# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Build an image when its inputs changed, and leave nothing behind when that fails."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from . import (
    atomic,
    build_cleanup,
    build_layers,
    dib,
    image_inputs,
    image_layers,
    image_lock,
    image_manifest,
    image_references,
    image_report,
    image_sbom,
    images,
    locked_packages,
    locks,
)
from .build_layers import BuildLayers
from .digests import DigestCache
from .image_manifest import ImageError
from .image_plan import Plan, Request, collect_inputs, plan
from .signals import signals_ignored, signals_raise


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
    version = todo.version
    if todo.unsigned and request.signer:
        images.add_signature(request.store_dir, request.name, todo.version, request.signer.sign)
    if todo.action == "link":
        images.set_latest(request.store_dir, request.name, todo.version)
    elif todo.action == "build":
        try:
            manifest = _build(request, todo, cache)
        finally:
            with signals_ignored():
                _clean(request)
        removed = _collect_garbage(request)
        version = str(manifest["version"])
    return {"changed": todo.action != "none", "removed": removed, "version": version}


def _clean(request: Request) -> list[str]:
    done = [f"removed {path}" for path in images.clean(request.store_dir, request.name)]
    return done + build_cleanup.clean_directory(request.work_dir)


def _build(request: Request, todo: Plan, cache: DigestCache) -> dict[str, Any]:
    """Build and publish; return the manifest."""
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
        work = BuildLayers(request, todo.inputs, cache)
        try:
            _run(request, partial, {**build_environment(request), **work.environment, **_locked(request, work, cache)})
            check_unchanged(request, todo, cache)
        except dib.BuildError:
            # What was finished before is worth as much as ever, unless it was made from something else.
            if not request.lock_update and not _changed(request, todo, cache):
                work.keep(todo.inputs)
            raise
        facts = read_facts(partial, request.log_path)
        if "lock" in facts:
            facts["lock"]["wheels"] = image_lock.wheel_pins(request.wheelhouse, cache.digest)
        inputs = _keep_lock(request, todo.inputs, facts, partial, cache)
        work.keep(inputs)
    for path in partial.iterdir():
        if path.name in (*image_manifest.FILE_NAMES, image_report.SIZES_NAME):
            path.chmod(0o444)
        else:
            images.remove_tree(path)
    facts["layers"] = work.facts()
    facts["build"] = {**facts.get("build", {}), **build_layers.builder_facts()}
    manifest = image_manifest.compose(partial, request.name, inputs, facts, cache.digest)
    image_sbom.write(partial, manifest)
    atomic.write_file(partial / build_layers.BUILD_NAME, build_layers.dump(work.report()), 0o444)
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
    return manifest


def _locked(request: Request, work: BuildLayers, cache: DigestCache) -> dict[str, str]:
    """Return the variables of a build that keeps to a lock, after its packages were put together."""
    if request.lock is None or request.lock_update:
        return {}
    environment = {"DIB_VLLMD_SOURCE_DATE_EPOCH": str(request.lock["source_date_epoch"])}
    if not work.whole:
        packages = request.work_dir / "packages"
        mirrors = [mirror for mirror in (request.mirror, request.security_mirror) if mirror]
        locked_packages.repository(request.lock["packages"], _downloads(request), mirrors, packages, cache)
        environment["DIB_VLLMD_PACKAGES"] = str(packages)
    return environment


def _keep_lock(
    request: Request, inputs: dict[str, str], facts: dict[str, Any], partial: Path, cache: DigestCache
) -> dict[str, str]:
    """Check what came out against the lock, or write the lock. Returns the inputs of the image."""
    if request.lock_path is None:
        return inputs
    files = {name: cache.digest(partial / name).removeprefix("sha256:") for name in image_manifest.FILE_NAMES}
    made = image_lock.compose(request.name, inputs, facts, files)
    if request.lock_update:
        image_lock.write(request.lock_path, made)
        return dict(sorted({**inputs, **image_lock.inputs_of(made)}.items()))
    if request.lock:
        image_lock.check_result(request.lock_path, request.lock, made)
    return inputs


def _downloads(request: Request) -> Path:
    return request.cache_dir / "dib/apt/debian"


def _run(request: Request, partial: Path, environment: dict[str, str]) -> None:
    own = request.work_dir / "downloads"
    locked_packages.lend(_downloads(request), own)
    build = dib.Build(
        program=request.program,
        elements=request.elements,
        elements_paths=request.elements_paths,
        architecture=request.architecture,
        output_directory=partial,
        temporary_directory=request.work_dir / "tmp",
        cache_directory=request.cache_dir / "dib",
        log_path=request.log_path,
        environment={**environment, "DIB_VLLMD_DOWNLOADS": str(own)},
    )
    try:
        dib.run(build, os.environ)
    finally:
        locked_packages.give_back(own, _downloads(request))


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
    try:
        needed = image_references.needed(request.store_dir, request.pins)
    except OSError:
        return []  # what cannot be read might name an image; `make gc` says what it is
    used = [request.store_dir / name / version for name, version in needed if name == request.name]
    removed = images.removable(request.store_dir, request.name, request.keep, used)
    for version in removed:
        images.remove_version(request.store_dir, request.name, version)
    image_layers.collect(request.cache_dir, request.layers_max_mib)
    return removed
