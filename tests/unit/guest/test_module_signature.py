"""Kernel modules signed by openssl, and the signature checked the way the kernel reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ELEMENTS

SCRIPT = ELEMENTS / "vllmd-nvidia/lib/vllmd_module_signature.py"
MAGIC = b"~Module signature appended~\n"
CONTENT = b"\x7fELF and the rest of a module" * 100


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """key.pem and its cert.pem, and another pair."""
    directory = tmp_path_factory.mktemp("keys")
    for prefix in ("", "other-"):
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=vllmd modules",
        ]
        command += ["-keyout", str(directory / f"{prefix}key.pem"), "-out", str(directory / f"{prefix}cert.pem")]
        subprocess.run(command, check=True, capture_output=True)
        (directory / f"{prefix}key.pem").chmod(0o600)
    return directory


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def parts(module: Path) -> tuple[bytes, bytes]:
    """The module and its signature, taken apart by the trailer as kernel/module/signing.c does."""
    content = module.read_bytes()
    assert content.endswith(MAGIC)
    trailer = content[-len(MAGIC) - 12 : -len(MAGIC)]
    assert trailer[:8] == bytes([0, 0, 2, 0, 0, 0, 0, 0])
    length = int.from_bytes(trailer[8:], "big")
    end = len(content) - len(MAGIC) - 12
    return content[: end - length], content[end - length : end]


def test_a_signed_module_is_the_module_and_a_signature_that_verifies(keys: Path, tmp_path: Path) -> None:
    module = tmp_path / "nvidia.ko"
    module.write_bytes(CONTENT)
    done = run("sign", keys / "key.pem", keys / "cert.pem", module)
    assert (done.returncode, done.stderr) == (0, "")
    content, signature = parts(module)
    assert content == CONTENT
    (tmp_path / "content").write_bytes(content)
    (tmp_path / "signature").write_bytes(signature)
    verify = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", tmp_path / "signature", "-noverify"]
    verify += ["-content", tmp_path / "content", "-certfile", keys / "cert.pem", "-out", "/dev/null"]
    subprocess.run(verify, check=True, capture_output=True)
    text = subprocess.run(
        ["openssl", "asn1parse", "-inform", "DER", "-in", tmp_path / "signature"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert ":sha256" in text
    assert "signingTime" not in text, "the same module and key give the same bytes"
    assert {path.name for path in tmp_path.iterdir()} == {"nvidia.ko", "content", "signature"}


def test_signing_again_gives_the_same_bytes(keys: Path, tmp_path: Path) -> None:
    module = tmp_path / "nvidia.ko"
    module.write_bytes(CONTENT)
    run("sign", keys / "key.pem", keys / "cert.pem", module)
    once = module.read_bytes()
    run("sign", keys / "key.pem", keys / "cert.pem", module)
    assert module.read_bytes() == once


def test_keys_that_cannot_sign_are_refused_beforehand(keys: Path, tmp_path: Path) -> None:
    assert run("check", keys / "key.pem", keys / "cert.pem").returncode == 0
    open_to_all = tmp_path / "open.pem"
    open_to_all.write_bytes((keys / "key.pem").read_bytes())
    open_to_all.chmod(0o644)
    encrypted = tmp_path / "encrypted.pem"
    command = ["openssl", "pkey", "-in", keys / "key.pem", "-aes256", "-passout", "pass:secret", "-out", encrypted]
    subprocess.run(command, check=True, capture_output=True)
    encrypted.chmod(0o600)
    for key, certificate, said in (
        (keys / "key.pem", keys / "other-cert.pem", "certifies another key"),
        (open_to_all, keys / "cert.pem", "can be read by others"),
        (encrypted, keys / "cert.pem", "is encrypted"),
        (keys / "key.pem", keys / "key.pem", "no certificate"),
        (keys / "key.pem", tmp_path / "gone.pem", "DIB_VLLMD_NVIDIA_SIGNING_CERTIFICATE_FILE"),
        ("", keys / "cert.pem", "DIB_VLLMD_NVIDIA_SIGNING_KEY"),
    ):
        done = run("check", key, certificate)
        assert done.returncode == 1, said
        assert said in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr


def test_a_broken_signature_at_the_end_is_named(keys: Path, tmp_path: Path) -> None:
    module = tmp_path / "nvidia.ko"
    module.write_bytes(b"short" + MAGIC)
    done = run("sign", keys / "key.pem", keys / "cert.pem", module)
    assert done.returncode == 1
    assert "length cannot be" in done.stderr
    assert module.read_bytes() == b"short" + MAGIC
