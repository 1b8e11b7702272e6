"""Signatures over manifests: what openssl makes and checks is what the modules do, and every corruption is refused."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils import (
    image_manifest,
    images,
    signatures,
    signing_keys,
)
from ansible_collections.vllmd.platform.plugins.module_utils.signatures import SignatureError

FACTS: dict[str, Any] = {
    "profile": "cpu",
    "debian": {"release": "bookworm", "architecture": "amd64"},
    "elements": ["vllmd-debian"],
    "packages": {"systemd": "252"},
    "wheels": {},
    "models": [],
    "cmdline": "root=/dev/vda ro",
    "kernel_release": "6.1.0",
}


def openssl(*arguments: str | Path) -> bytes:
    """Run openssl, the tool that docs/images.md tells to use, and return what it writes."""
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True).stdout


def make_key(path: Path, *kind: str) -> Path:
    """Make a private key as docs/images.md says, and its public half beside it as ``.pub``."""
    openssl("genpkey", *(kind or ("-algorithm", "ed25519")), "-out", path)
    path.chmod(0o600)
    openssl("pkey", "-in", path, "-pubout", "-out", path.with_suffix(".pub"))
    return path


class Operator:
    """A key pair, and a store with two signed versions of image ``demo``."""

    def __init__(self, root: Path) -> None:
        self.key = make_key(root / "images.pem")
        self.other = make_key(root / "other.pem")
        self.store = root / "store"
        self.signer = signing_keys.load_signing_key(self.key)
        self.trusted = signing_keys.load_trusted_keys([str(self.key.with_suffix(".pub"))])
        self.first, self.second = self.publish("1"), self.publish("2")
        self.manifest = image_manifest.read(self.first)
        self.signature = (self.first / "manifest.sig").read_bytes()

    def publish(self, inputs: str, name: str = "demo") -> Path:
        """Publish a signed version made from ``inputs``."""
        partial = self.store / name / ".000000000000.partial-1"
        partial.mkdir(parents=True)
        for each in image_manifest.FILE_NAMES:
            (partial / each).write_text("x")
        manifest = image_manifest.compose(partial, name, {"a": inputs}, FACTS)
        return images.publish(partial, self.store, manifest, self.signer.sign)


def verify(directory: Path, trusted: dict[str, signatures.PublicKey]) -> dict[str, Any]:
    """Do what module image_verify does with trusted keys."""
    content = image_manifest.read(directory)
    signatures.check(directory, content, trusted)
    return image_manifest.parse(directory, content)


def replace(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def refusal(directory: Path, trusted: dict[str, signatures.PublicKey]) -> str:
    """Return the one line that refuses the image."""
    with pytest.raises(image_manifest.ImageError) as caught:
        verify(directory, trusted)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """An operator whose store no test changes."""
    return Operator(tmp_path_factory.mktemp("operator"))


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


def test_a_signed_image_is_accepted_and_its_files_are_read_only(operator: Operator) -> None:
    assert verify(operator.first, operator.trusted)["version"] == operator.first.name
    assert (operator.first / "manifest.sig").stat().st_mode & 0o777 == 0o444
    assert images.leftovers(operator.store, "demo") == []


def test_openssl_says_the_same(operator: Operator, tmp_path: Path) -> None:
    """The commands of docs/images.md."""
    public = operator.key.with_suffix(".pub")
    script = 'sed -n \'s/.*"signature": "\\(.*\\)".*/\\1/p\' "$1/manifest.sig" | base64 -d'
    value = subprocess.run(["sh", "-c", script, "sh", operator.first], check=True, capture_output=True).stdout
    (tmp_path / "value").write_bytes(value)
    manifest = operator.first / "manifest.json"
    checked = openssl(
        "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", manifest, "-sigfile", tmp_path / "value"
    )
    assert b"Verified Successfully" in checked
    der = tmp_path / "der"
    openssl("pkey", "-pubin", "-in", public, "-outform", "DER", "-out", der)
    digest = openssl("dgst", "-sha256", "-r", der).split()[0].decode()
    assert operator.signer.public.key_id == f"sha256:{digest}"


def test_a_p256_signature_made_by_openssl_is_accepted(operator: Operator, tmp_path: Path) -> None:
    key = make_key(tmp_path / "p256.pem", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    trusted = signing_keys.load_trusted_keys(
        [key.with_suffix(".pub").read_text(), str(operator.key.with_suffix(".pub"))]
    )
    key_id = next(each.key_id for each in trusted.values() if each.algorithm == signatures.P256)
    value = base64.b64encode(openssl("dgst", "-sha256", "-sign", key, operator.first / "manifest.json")).decode()
    form = '{\n  "algorithm": "%s",\n  "key_id": "%s",\n  "schema_version": 1,\n  "signature": "%s"\n}\n'
    replace(operator.first / "manifest.sig", (form % ("ecdsa-p256-sha256", key_id, value)).encode())
    verify(operator.first, trusted)
    replace(operator.first / "manifest.sig", (form % ("ed25519", key_id, value)).encode())
    assert "says algorithm ed25519, but key sha256:" in refusal(operator.first, trusted)
    replace(operator.first / "manifest.json", operator.manifest + b" ")
    replace(operator.first / "manifest.sig", (form % ("ecdsa-p256-sha256", key_id, value)).encode())
    assert "does not fit" in refusal(operator.first, trusted)


def test_an_image_without_a_signature_is_refused(operator: Operator) -> None:
    (operator.first / "manifest.sig").unlink()
    message = refusal(operator.first, operator.trusted)
    assert message.startswith(f"image {operator.first} is not signed (manifest.sig is missing), and trusted keys are")


def test_an_unknown_key_is_named(operator: Operator) -> None:
    other = signing_keys.load_trusted_keys([str(operator.other.with_suffix(".pub"))])
    message = refusal(operator.first, other)
    assert f"is by key {operator.signer.public.key_id}, which is not trusted (trusted: {next(iter(other))})" in message


def test_a_signature_that_claims_a_trusted_key_is_refused(operator: Operator) -> None:
    """Signed by another key, with the trusted key's id written over its own."""
    other = signing_keys.load_signing_key(operator.other)
    forged = signatures.Signature(signatures.ED25519, operator.signer.public.key_id, other.key.sign(operator.manifest))
    replace(operator.first / "manifest.sig", signatures.dump(forged))
    assert "does not fit" in refusal(operator.first, operator.trusted)


def test_swapped_manifests_are_refused_with_and_without_their_signatures(operator: Operator) -> None:
    for name in ("manifest.json", "manifest.sig"):
        first, second = operator.first / name, operator.second / name
        content = first.read_bytes()
        replace(first, second.read_bytes())
        replace(second, content)
        for directory, other in ((operator.first, operator.second), (operator.second, operator.first)):
            message = refusal(directory, operator.trusted)
            if name == "manifest.json":
                assert "does not fit" in message
            else:
                assert f"describes image 'demo' version '{other.name}', but lies where 'demo' version " in message


def test_a_version_moved_to_another_place_is_refused(operator: Operator) -> None:
    renamed = operator.store / "demo/0123456789ab"
    shutil.copytree(operator.first, renamed)
    assert "but lies where 'demo' version '0123456789ab' belongs" in refusal(renamed, operator.trusted)
    foreign = operator.store / "other" / operator.first.name
    shutil.copytree(operator.first, foreign)
    assert f"but lies where 'other' version '{foreign.name}' belongs" in refusal(foreign, operator.trusted)
    with pytest.raises(image_manifest.ImageError, match="but lies where 'other'"):
        image_manifest.load(foreign)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig"])
def test_every_truncation_is_refused(operator: Operator, name: str) -> None:
    content = (operator.first / name).read_bytes()
    for length in range(len(content)):
        replace(operator.first / name, content[:length])
        assert str(operator.first) in refusal(operator.first, operator.trusted)


@given(st.data())
def test_every_flipped_byte_is_refused(shared: Operator, data: st.DataObject) -> None:
    """In the manifest, in the signature's file, and in the public key itself."""
    which = data.draw(st.sampled_from(["manifest", "signature", "key"]))
    original = {
        "manifest": shared.manifest,
        "signature": shared.signature,
        "key": next(iter(shared.trusted.values())).key.public_bytes_raw(),
    }[which]
    at = data.draw(st.integers(0, len(original) - 1))
    flipped = bytearray(original)
    flipped[at] ^= data.draw(st.integers(1, 255))
    refuses(shared, which, bytes(flipped))


@given(st.sampled_from(["manifest", "signature"]), st.data())
def test_random_corruption_is_refused(shared: Operator, which: str, data: st.DataObject) -> None:
    """A piece cut out, doubled, or replaced by anything."""
    original = shared.manifest if which == "manifest" else shared.signature
    start = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(start, len(original)))
    changed = original[:start] + data.draw(st.binary(max_size=40) | st.just(original[start:end] * 2)) + original[end:]
    if changed != original:
        refuses(shared, which, changed)


def refuses(shared: Operator, which: str, content: bytes) -> None:
    """Fail unless the corrupted part is refused, in one line and without another exception."""
    manifest, signature, keys = shared.manifest, shared.signature, shared.trusted
    if which == "manifest":
        manifest = content
    elif which == "signature":
        signature = content
    else:
        key = signing_keys.ed25519.Ed25519PublicKey.from_public_bytes(content)
        keys = {shared.signer.public.key_id: signatures.PublicKey("", signatures.ED25519, key)}
    with pytest.raises(SignatureError) as caught:
        found = signatures.parse(signature, shared.first / "manifest.sig")
        if found.key_id not in keys:
            raise SignatureError("unknown key")
        if not keys[found.key_id].accepts(manifest, found.value) or found.algorithm != signatures.ED25519:
            raise SignatureError("does not fit")
    assert len(str(caught.value).splitlines()) == 1


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda each: each.decode("latin-1")))
def test_any_text_as_a_trusted_key_is_one_line(text: str) -> None:
    for entry in (text, f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"):
        with pytest.raises(SignatureError) as caught:
            signing_keys.load_trusted_keys([entry])
        assert len(str(caught.value).splitlines()) == 1


def test_several_keys_in_one_file_are_all_trusted(shared: Operator, tmp_path: Path) -> None:
    both = tmp_path / "both.pub"
    both.write_text("".join(key.with_suffix(".pub").read_text() for key in (shared.key, shared.other)))
    assert len(signing_keys.load_trusted_keys([str(both)])) == 2


def test_what_is_no_trusted_key_is_told(shared: Operator, tmp_path: Path) -> None:
    rsa = make_key(tmp_path / "rsa.pem", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
    damaged = shared.key.with_suffix(".pub").read_text().replace("MCow", "MCox")
    cases: list[tuple[list[str], str]] = [
        ([], "trusted_keys is empty, so no image could be used; name a public key, or leave it out"),
        (["/nowhere.pub"], "cannot read trusted key '/nowhere.pub': No such file or directory; correct the path"),
        ([str(tmp_path)], f"cannot read trusted key '{tmp_path}': "),
        (["/dev/zero"], "cannot read trusted key '/dev/zero': not a regular file"),
        ([str(shared.key)], "is a private key, which must not leave the builder"),
        ([shared.key.read_text()], "trusted key 1 is a private key"),
        ([rsa.with_suffix(".pub").read_text()], "trusted key 1 is neither an Ed25519 nor a P-256 key"),
        ([damaged], "trusted key 1 holds no public key in PEM form"),
        ([damaged[:60]], "trusted key 1 holds no public key in PEM form"),
    ]
    for entries, sentence in cases:
        with pytest.raises(SignatureError) as caught:
            signing_keys.load_trusted_keys(entries)
        assert sentence in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o700 | 0o001])
def test_a_signing_key_that_others_can_use_is_refused(shared: Operator, tmp_path: Path, mode: int) -> None:
    key = tmp_path / "key.pem"
    shutil.copy(shared.key, key)
    key.chmod(mode)
    with pytest.raises(SignatureError) as caught:
        signing_keys.load_signing_key(key)
    assert str(caught.value).startswith(f"signing key {key} has permissions {mode:04o}, so others can use it; allowed:")


def test_a_signing_key_of_another_user_is_refused(
    shared: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key.pem"
    shutil.copy(shared.key, key)
    if os.geteuid() == 0:
        os.chown(key, 65534, 65534)
    else:  # who cannot give a file away is somebody else than its owner
        monkeypatch.setattr(os, "geteuid", lambda: 65533)
    with pytest.raises(SignatureError, match=f"belongs to user id {key.stat().st_uid}; allowed: root and the user"):
        signing_keys.load_signing_key(key)


def test_what_is_no_signing_key_is_told(shared: Operator, tmp_path: Path) -> None:
    files = {
        "p256": make_key(tmp_path / "p256.pem", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
        "locked": tmp_path / "locked.pem",
        "public": tmp_path / "public.pem",
        "damaged": tmp_path / "damaged.pem",
        "empty": tmp_path / "empty.pem",
        "missing": tmp_path / "missing.pem",
    }
    openssl("pkey", "-in", shared.key, "-aes256", "-passout", "pass:x", "-out", files["locked"])
    files["public"].write_bytes(shared.key.with_suffix(".pub").read_bytes())
    files["damaged"].write_bytes(shared.key.read_bytes().replace(b"MC4C", b"MC5C"))
    files["empty"].touch()
    sentences = {
        "p256": "is no Ed25519 key; make one with openssl genpkey -algorithm ed25519",
        "locked": "is encrypted, and nobody is there to type its passphrase",
        "public": "holds no private key in PEM form",
        "damaged": "holds no private key in PEM form",
        "empty": "holds no private key in PEM form",
        "missing": "No such file or directory; correct the path, or make a key",
    }
    for name, path in files.items():
        if path.exists():
            path.chmod(0o600)
        with pytest.raises(SignatureError) as caught:
            signing_keys.load_signing_key(path)
        assert sentences[name] in str(caught.value)
        assert str(path) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_only_what_is_signed_already_needs_no_signature(operator: Operator) -> None:
    other = signing_keys.load_signing_key(operator.other)
    assert signatures.why_unsigned(operator.first, operator.manifest, operator.signer) == ""
    assert "is signed by another key (sha256:" in signatures.why_unsigned(operator.first, operator.manifest, other)
    with pytest.raises(SignatureError, match="does not fit"):
        signatures.why_unsigned(operator.first, operator.manifest + b" ", operator.signer)
    (operator.first / "manifest.sig").chmod(0o644)
    (operator.first / "manifest.sig").unlink()
    assert signatures.why_unsigned(operator.first, operator.manifest, operator.signer) == "the image is not signed"


def test_signing_later_keeps_the_order_of_versions_and_reads_every_byte(operator: Operator) -> None:
    for directory in (operator.first, operator.second):
        (directory / "manifest.sig").unlink()
    images.add_signature(operator.store, "demo", operator.first.name, operator.signer.sign)
    assert (operator.first / "manifest.sig").read_bytes() == operator.signature
    assert images.versions(operator.store, "demo") == [operator.first.name, operator.second.name]
    replace(operator.second / "kernel", b"y")
    with pytest.raises(image_manifest.ImageError, match="it changed after it was published"):
        images.add_signature(operator.store, "demo", operator.second.name, operator.signer.sign)
    assert not (operator.second / "manifest.sig").exists()
    assert images.leftovers(operator.store, "demo") == []


@pytest.mark.parametrize(
    ("times", "now", "sentence"),
    [
        ({"not_after": "2027-06-30"}, "2027-06-30T23:59:59", ""),
        ({"not_after": "2027-06-30"}, "2027-07-01T00:00:00", "whose time ended on 2027-06-30 23:59:59 UTC"),
        ({"not_after": "2027-06-30T12:00:00Z"}, "2027-06-30T12:00:01", "whose time ended on 2027-06-30 12:00:00 UTC"),
        ({"not_before": "2027-01-01"}, "2027-01-01T00:00:00", ""),
        ({"not_before": "2027-01-01"}, "2026-12-31T23:59:59", "whose time begins on 2027-01-01 00:00:00 UTC"),
        ({"not_before": "2027-01-01", "not_after": "2027-06-30"}, "2027-03-01T00:00:00", ""),
    ],
)
def test_a_key_holds_for_its_time_only(shared: Operator, times: dict[str, str], now: str, sentence: str) -> None:
    trusted = signing_keys.load_trusted_keys([{"key": str(shared.key.with_suffix(".pub")), **times}])
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    if not sentence:
        assert signatures.check(shared.first, shared.manifest, trusted, moment) in trusted
        return
    with pytest.raises(SignatureError, match=sentence) as refused:
        signatures.check(shared.first, shared.manifest, trusted, moment)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"not_after": "2027-06-30"}, "neither PEM text, a file's path nor"),
        ({"key": "KEY", "until": "2027-06-30"}, "neither PEM text, a file's path nor"),
        ({"key": "KEY", "not_after": "next year"}, "not_after: found 'next year'; allowed: a day"),
        ({"key": "KEY", "not_after": "2027-02-30"}, "not_after: found '2027-02-30'; allowed: a day"),
        ({"key": "KEY", "not_after": 2027}, "not_after: found 2027; allowed: a day"),
        ({"key": "KEY", "not_before": "2028-01-01", "not_after": "2027-01-01"}, "so it never holds"),
        (17, "neither PEM text, a file's path nor"),
    ],
)
def test_a_wrong_time_of_a_key_is_one_line(shared: Operator, entry: Any, sentence: str) -> None:
    if isinstance(entry, dict) and "key" in entry:
        entry = {**entry, "key": str(shared.key.with_suffix(".pub"))}
    with pytest.raises(SignatureError, match=sentence) as refused:
        signing_keys.load_trusted_keys([entry])
    assert "\n" not in str(refused.value)


def test_a_key_that_is_listed_twice_must_agree_with_itself(shared: Operator) -> None:
    path = str(shared.key.with_suffix(".pub"))
    assert len(signing_keys.load_trusted_keys([path, path])) == 1
    with pytest.raises(SignatureError, match="listed twice with different times"):
        signing_keys.load_trusted_keys([path, {"key": path, "not_after": "2027-06-30"}])
