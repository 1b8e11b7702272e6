"""The bill of materials: valid for the strict validator, complete, the same bytes each time, and bound to its image."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given, settings
from hypothesis import strategies as st
from packageurl import PackageURL

from ansible_collections.vllmd.platform.plugins.module_utils import image_manifest, image_sbom

PACKAGES = {
    "base-files": "12.4+deb12u15",
    "acpid": "1:2.0.33-2+b1",
    "libstdc++6": "12.2.0-14+deb12u1",
    "ca-certificates": "20250419~deb12u2",
    "0ad": "0.0.26-3",
    "linux-image-6.1.0-56-cloud-amd64": "6.1.158-1",
}
WHEELS = {"torch": "2.13.0+cpu", "typing_extensions": "4.15.0", "PyYAML": "6.0.3", "zope.interface": "1!8.0"}
MODELS = [{"name": "smollm2-135m-instruct", "digest": "sha256:" + "ab" * 32}]
DIGEST = "sha256:" + "12" * 32
VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


def manifest(**changes: Any) -> dict[str, Any]:
    """Return a manifest as image_manifest.compose makes it."""
    return {
        "schema_version": 1,
        "name": "demo",
        "version": "121212121212",
        "created": "2026-11-21T08:16:25Z",
        "inputs_digest": DIGEST,
        "inputs": {"schema": "1"},
        "profile": "cpu",
        "debian": {"release": "bookworm", "architecture": "amd64"},
        "elements": ["vllmd-debian"],
        "files": {name: {"sha256": "cd" * 32, "size_bytes": 1} for name in image_manifest.FILE_NAMES},
        "packages": dict(PACKAGES),
        "wheels": dict(WHEELS),
        "models": list(MODELS),
        "cmdline": "root=/dev/vda ro",
        "kernel_release": "6.1.0-56-cloud-amd64",
        **changes,
    }


def assert_valid(bill: dict[str, Any]) -> None:
    """Fail unless the strict validator finds nothing and every reference is one component's."""
    error = VALIDATOR.validate_str(image_sbom.dump(bill).decode())
    assert error is None, error
    references = [bill["metadata"]["component"]["bom-ref"], *(each["bom-ref"] for each in bill["components"])]
    assert len(set(references)) == len(references)
    assert [each["ref"] for each in bill["dependencies"]] == references
    assert bill["dependencies"][0]["dependsOn"] == references[1:]


def of_kind(bill: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """Return the components whose reference begins with ``kind``, by name."""
    return {each["name"]: each for each in bill["components"] if each["bom-ref"].startswith(f"{kind}:")}


def test_everything_that_the_manifest_knows_is_a_component() -> None:
    bill = image_sbom.compose(manifest())
    assert_valid(bill)
    for kind, versions in (("deb", PACKAGES), ("pypi", WHEELS)):
        assert {name: each["version"] for name, each in of_kind(bill, kind).items()} == versions
    model = of_kind(bill, "model")["smollm2-135m-instruct"]
    assert (model["type"], model["hashes"]) == (
        "machine-learning-model",
        [{"alg": "SHA-256", "content": "ab" * 32}],
    )
    assert of_kind(bill, "system")["debian"]["version"] == "12"
    files = of_kind(bill, "file")
    assert set(files) == set(image_manifest.FILE_NAMES)
    assert files["kernel"]["version"] == "6.1.0-56-cloud-amd64"
    assert all(each["hashes"] == [{"alg": "SHA-256", "content": "cd" * 32}] for each in files.values())
    assert len(bill["components"]) == len(PACKAGES) + len(WHEELS) + len(MODELS) + len(files) + 1
    image = bill["metadata"]["component"]
    assert {each["name"]: each["value"] for each in image["properties"]} == {
        "vllmd:image:inputs_digest": DIGEST,
        "vllmd:image:kernel_release": "6.1.0-56-cloud-amd64",
        "vllmd:image:profile": "cpu",
    }


@pytest.mark.parametrize(
    ("kind", "name", "url"),
    [
        ("deb", "acpid", "pkg:deb/debian/acpid@1:2.0.33-2%2Bb1?arch=amd64&distro=debian-12"),
        ("deb", "libstdc++6", "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12"),
        ("deb", "ca-certificates", "pkg:deb/debian/ca-certificates@20250419~deb12u2?arch=amd64&distro=debian-12"),
        ("pypi", "torch", "pkg:pypi/torch@2.13.0%2Bcpu"),
        ("pypi", "typing_extensions", "pkg:pypi/typing-extensions@4.15.0"),
        ("pypi", "PyYAML", "pkg:pypi/pyyaml@6.0.3"),
        ("pypi", "zope.interface", "pkg:pypi/zope.interface@1%218.0"),
    ],
)
def test_odd_names_and_versions_are_encoded_as_the_specification_says(kind: str, name: str, url: str) -> None:
    found = of_kind(image_sbom.compose(manifest()), kind)[name]["purl"]
    assert found == url
    assert PackageURL.from_string(found).to_string() == url


VERSIONS = st.text(string.ascii_letters + string.digits + ".+-~:!", min_size=1, max_size=20)


@settings(deadline=None)
@given(
    st.dictionaries(st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,30}", fullmatch=True), VERSIONS, max_size=4),
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True), VERSIONS, max_size=4
    ),
)
def test_any_package_can_be_read_back(packages: dict[str, str], wheels: dict[str, str]) -> None:
    bill = image_sbom.compose(manifest(packages=packages, wheels=wheels))
    assert_valid(bill)
    for kind, expected in (("deb", packages), ("pypi", wheels)):
        found = of_kind(bill, kind)
        assert set(found) == set(expected)
        for name, component in found.items():
            url = PackageURL.from_string(component["purl"])
            assert (url.type, url.version) == (kind, expected[name])
            assert url.name == (name if kind == "deb" else name.lower().replace("_", "-"))


def test_the_same_manifest_gives_the_same_bytes_in_any_order() -> None:
    first = image_sbom.dump(image_sbom.compose(manifest()))
    turned = manifest()
    for field in ("packages", "wheels", "files"):
        turned[field] = dict(reversed(turned[field].items()))
    assert image_sbom.dump(image_sbom.compose(dict(reversed(turned.items())))) == first
    bill = json.loads(first)
    assert bill["metadata"]["timestamp"] == "2026-11-21T08:16:25Z"
    other = image_sbom.compose(manifest(inputs_digest="sha256:" + "34" * 32))
    assert other["serialNumber"] != bill["serialNumber"], "other inputs, another serial number"
    assert re.fullmatch(
        r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", bill["serialNumber"]
    )


def test_the_manifest_lists_the_bill_and_the_bill_can_be_made_again_from_it(tmp_path: Path) -> None:
    for name in image_manifest.FILE_NAMES:
        (tmp_path / name).write_text("x")
    made = image_manifest.compose(tmp_path, "demo", {"a": "1"}, manifest())
    image_sbom.write(tmp_path, made)
    path = tmp_path / "sbom.cdx.json"
    assert path.stat().st_mode & 0o777 == 0o444
    image_manifest.check_digests(tmp_path, made)
    assert path.read_bytes() == image_sbom.dump(image_sbom.compose(made))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"2.13.0", b"2.13.1"))
    with pytest.raises(image_manifest.ImageError, match=r"sbom\.cdx\.json has sha256 .* by its manifest"):
        image_manifest.check_digests(tmp_path, made)


def test_an_image_without_wheels_models_and_base_files_has_a_bill_too() -> None:
    bill = image_sbom.compose(manifest(packages={}, wheels={}, models=[]))
    assert_valid(bill)
    assert of_kind(bill, "system")["debian"]["version"] == "bookworm"


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("packages", {"systemd": 252}, '{"systemd": 252}'),
        ("packages", {"": "1"}, '{"": "1"}'),
        ("wheels", {"vllm": ""}, '{"vllm": ""}'),
        ("models", ["m"], '"m"'),
        ("models", [{"name": "m", "digest": "md5:0"}], '{"name": "m", "digest": "md5:0"}'),
        ("models", [{"name": 3, "digest": DIGEST}], '{"name": 3, "digest": "' + DIGEST),
        ("models", [*MODELS, *MODELS], '{"name": "smollm2-135m-instruct"'),
        ("debian", {"release": "bookworm"}, '{"release": "bookworm"}'),
    ],
)
def test_what_is_no_package_is_told_in_one_line(field: str, value: object, found: str) -> None:
    with pytest.raises(image_manifest.ImageError) as caught:
        image_sbom.compose(manifest(**{field: value}))
    sentence = str(caught.value)
    assert sentence.startswith(f"the build's facts.json, field {field}: found {found}")
    assert len(sentence.splitlines()) == 1


def test_what_the_lock_pins_is_in_the_bill() -> None:
    package = {"version": "1:2.0.33-2+b1", "sha256": "01" * 32, "source": "acpid 1:2.0.33-2", "licences": ["GPL-2+"]}
    pins = {
        "packages": {"acpid": package, "base-files": {**package, "version": "another"}},
        "wheels": {
            "zope-interface": {"version": "1!8.0", "file": "zope.interface-8.0-py3-none-any.whl", "sha256": "02" * 32}
        },
    }
    bill = image_sbom.compose(manifest(lock=pins))
    assert_valid(bill)
    acpid = of_kind(bill, "deb")["acpid"]
    assert acpid["hashes"] == [{"alg": "SHA-256", "content": "01" * 32}]
    assert acpid["licenses"] == [{"license": {"name": "GPL-2+"}}]
    assert acpid["properties"] == [{"name": "vllmd:debian:source", "value": "acpid 1:2.0.33-2"}]
    # A pin of another version is about another file.
    assert "hashes" not in of_kind(bill, "deb")["base-files"]
    assert of_kind(bill, "pypi")["zope.interface"]["hashes"] == [{"alg": "SHA-256", "content": "02" * 32}]
