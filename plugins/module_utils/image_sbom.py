# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The CycloneDX bill of materials of an image, made from its manifest alone.

The format is CycloneDX 1.6 (ECMA-424), the identifiers are package URLs (ECMA-427). The same manifest gives the same
bytes. The standard library suffices, because this runs on the builder; the unit tests judge the result by
cyclonedx-python-lib's strict validator.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from . import atomic
from .digests import digest_file
from .image_manifest import ImageError

SBOM_NAME = "sbom.cdx.json"
SPEC_VERSION = "1.6"

#: The namespace of the serial numbers; fixed, since another one would rename every bill there is.
_SERIALS = uuid.uuid5(uuid.NAMESPACE_URL, "https://vllmd.com/schemas/image-v1.schema.json")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Component = dict[str, Any]


def package_url(kind: str, namespace: str, name: str, version: str, qualifiers: Mapping[str, str]) -> str:
    """Return the package URL; all but letters, digits and ``.-_~:`` is percent-encoded, as its specification says."""
    path = "/".join(quote(part, safe=":") for part in (namespace, name) if part)
    pairs = "&".join(f"{key}={quote(value, safe=':')}" for key, value in sorted(qualifiers.items()) if value)
    return f"pkg:{kind}/{path}@{quote(version, safe=':')}" + (f"?{pairs}" if pairs else "")


def debian_version(manifest: Mapping[str, Any]) -> str:
    """Return the Debian version by which scanners choose advisories, such as ``12``.

    It is the number before the first dot in the version of package base-files, which carries /etc/debian_version;
    without one it is the release's name.
    """
    found = re.match(r"([0-9]+)\b", str(manifest["packages"].get("base-files", "")))
    return found[1] if found else str(manifest["debian"]["release"])


def compose(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bill of materials of the image that ``manifest`` describes, whether it lists the bill or not yet.

    Raises ImageError when an entry that the build reported is no name with a version, or no name with a digest.
    """
    if not all(isinstance(manifest["debian"].get(key), str) for key in ("architecture", "release")):
        raise _unfit("debian", manifest["debian"], '{"architecture": ..., "release": ...}')
    root = f"image:{manifest['name']}@{manifest['version']}"
    components = sorted(
        [_system(manifest), *_packages(manifest), *_wheels(manifest), *_models(manifest), *_files(manifest)],
        key=lambda component: str(component["bom-ref"]),
    )
    facts = ("inputs_digest", "kernel_release", "profile")
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": uuid.uuid5(_SERIALS, manifest["inputs_digest"]).urn,
        "version": 1,
        "metadata": {
            "timestamp": manifest["created"],
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [{"type": "application", "name": "vllmd.platform"}]},
            "component": {
                "type": "container",
                "bom-ref": root,
                "name": manifest["name"],
                "version": manifest["version"],
                "properties": [{"name": f"vllmd:image:{fact}", "value": manifest[fact]} for fact in facts],
            },
        },
        "components": components,
        "dependencies": [
            {"ref": root, "dependsOn": [component["bom-ref"] for component in components]},
            *({"ref": component["bom-ref"]} for component in components),
        ],
    }


def dump(bill: Mapping[str, Any]) -> bytes:
    """Return the bill as the text that is stored."""
    return (json.dumps(bill, indent=1) + "\n").encode()


def write(directory: Path, manifest: dict[str, Any]) -> None:
    """Write the bill beside the image's files in ``directory`` and add it to ``files`` of ``manifest``.

    Raises ImageError as `compose`, OSError.
    """
    path = directory / SBOM_NAME
    atomic.write_file(path, dump(compose(manifest)), 0o444)
    manifest["files"][SBOM_NAME] = {
        "sha256": digest_file(path).removeprefix("sha256:"),
        "size_bytes": path.stat().st_size,
    }


def _system(manifest: Mapping[str, Any]) -> Component:
    return {
        "type": "operating-system",
        "bom-ref": "system:debian",
        "name": "debian",
        "version": debian_version(manifest),
    }


def _packages(manifest: Mapping[str, Any]) -> list[Component]:
    # The manifest knows the image's architecture, not which packages are for every one ("all").
    qualifiers = {"arch": manifest["debian"]["architecture"], "distro": f"debian-{debian_version(manifest)}"}
    return [
        {
            **_library("deb", name, version, package_url("deb", "debian", name.lower(), version, qualifiers)),
            **_pinned(manifest, "packages", name, version),
        }
        for name, version in _versions(manifest, "packages")
    ]


def _wheels(manifest: Mapping[str, Any]) -> list[Component]:
    # Of the many spellings of a project's name, package URLs of this type allow one.
    return [
        {
            **_library("pypi", name, version, package_url("pypi", "", name.lower().replace("_", "-"), version, {})),
            **_pinned(manifest, "wheels", re.sub(r"[-_.]+", "-", name).lower(), version),
        }
        for name, version in _versions(manifest, "wheels")
    ]


def _pinned(manifest: Mapping[str, Any], kind: str, name: str, version: str) -> Component:
    """Return what the manifest's pins say of a library besides: the file's hash, and of a package source and licences.

    A build whose elements report no pins, or a package that the build made itself, has none of it.
    """
    pin = manifest.get("lock", {}).get(kind, {}).get(name)
    if not isinstance(pin, dict) or pin.get("version") != version or not _SHA256.fullmatch(str(pin.get("sha256"))):
        return {}
    more: Component = {"hashes": [{"alg": "SHA-256", "content": pin["sha256"]}]}
    licences = pin.get("licences")
    if isinstance(licences, list) and licences:
        # Debian's short names are no SPDX identifiers, so they are names.
        more["licenses"] = [{"license": {"name": str(licence)}} for licence in licences]
    if pin.get("source"):
        more["properties"] = [{"name": "vllmd:debian:source", "value": str(pin["source"])}]
    return more


def _library(kind: str, name: str, version: str, url: str) -> Component:
    return {"type": "library", "bom-ref": f"{kind}:{name}", "name": name, "version": version, "purl": url}


def _models(manifest: Mapping[str, Any]) -> list[Component]:
    models: dict[str, Component] = {}
    for entry in manifest["models"]:
        name = entry.get("name") if isinstance(entry, dict) else None
        digest = _DIGEST.fullmatch(str(entry.get("digest"))) if name else None
        if not isinstance(name, str) or digest is None or name in models:
            raise _unfit("models", entry, 'one {"name": ..., "digest": "sha256:..."} for each name')
        models[name] = {
            "type": "machine-learning-model",
            "bom-ref": f"model:{name}",
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": digest[1]}],
        }
    return list(models.values())


def _files(manifest: Mapping[str, Any]) -> list[Component]:
    """Return the image's own files: by their hashes the bill belongs to this image and no other."""
    components = []
    for name in sorted({*manifest["files"]} - {SBOM_NAME}):
        component: Component = {"type": "file", "bom-ref": f"file:{name}", "name": name}
        if name in ("kernel", "initrd"):
            component["version"] = manifest["kernel_release"]
        components.append({**component, "hashes": [{"alg": "SHA-256", "content": manifest["files"][name]["sha256"]}]})
    return components


def _versions(manifest: Mapping[str, Any], field: str) -> list[tuple[str, str]]:
    for name, version in manifest[field].items():
        if not name or not isinstance(version, str) or not version:
            raise _unfit(field, {name: version}, '"<name>": "<version>"')
    return list(manifest[field].items())


def _unfit(field: str, found: object, allowed: str) -> ImageError:
    return ImageError(
        f"the build's facts.json, field {field}: found {json.dumps(found)}, expected {allowed}; "
        "correct the element that writes it (image-elements/README.rst)"
    )
