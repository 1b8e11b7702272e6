"""Sign kernel modules for Secure Boot with openssl, the way the kernel's own scripts/sign-file does.

Usage:
    vllmd_module_signature.py check KEY CERTIFICATE
    vllmd_module_signature.py sign KEY CERTIFICATE MODULE

KEY is a private key and CERTIFICATE its certificate, both PEM files of the builder; no byte of the key leaves openssl.
`check` says in one line why the two cannot sign; `sign` replaces MODULE, an uncompressed .ko, by itself with the
signature at its end, and an earlier signature at its end by the new one.

The format (Documentation/admin-guide/module-signing.rst and include/linux/module_signature.h of the kernel): the
module, a detached CMS signature over it as DER, `struct module_signature` (12 bytes; the last four are the signature's
length, big endian), and the magic line.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

MAGIC = b"~Module signature appended~\n"
#: algo, hash, id_type, signer_len, key_id_len, 3 bytes of padding, sig_len; with PKEY_ID_PKCS7 the others are 0.
TRAILER = struct.Struct(">BBBBB3xI")
PKEY_ID_PKCS7 = 2


class SignatureError(Exception):
    """Why nothing can be signed, in one line."""


def openssl(*arguments: str | Path) -> bytes:
    """Run openssl without a terminal to ask for a passphrase on; return its output. Raises SignatureError."""
    command = ["openssl", *map(str, arguments)]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, stdin=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:
        raise SignatureError(f"cannot run openssl: {error.strerror}; install the package openssl") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise SignatureError(said[0] if said else f"openssl {arguments[0]} ended with status {done.returncode}")
    return done.stdout


def check(key: Path, certificate: Path) -> None:
    """Raise SignatureError unless ``key`` is its owner's alone, not encrypted, and belongs to ``certificate``."""
    for path, variable in (
        (key, "DIB_VLLMD_NVIDIA_SIGNING_KEY"),
        (certificate, "DIB_VLLMD_NVIDIA_SIGNING_CERTIFICATE_FILE"),
    ):
        if not path.is_file():
            raise SignatureError(f"{variable}={path} is no file; key and certificate are given together, as PEM files")
    if key.stat().st_mode & 0o077:
        raise SignatureError(f"{key} can be read by others than its owner; chmod 600 {key}")
    try:
        public = openssl("pkey", "-in", key, "-passin", "pass:", "-pubout")
    except SignatureError as error:
        raise SignatureError(
            f"{key} is no private key in PEM form, or is encrypted, which nobody can unlock ({error})"
        ) from None
    try:
        certified = openssl("x509", "-in", certificate, "-noout", "-pubkey")
    except SignatureError as error:
        raise SignatureError(f"{certificate} is no certificate in PEM form ({error})") from None
    if public != certified:
        raise SignatureError(f"{certificate} certifies another key than {key}; give the two that belong together")


def unsigned(content: bytes) -> bytes:
    """Return a module without the signature at its end, if it has one. Raises SignatureError for a broken one."""
    if not content.endswith(MAGIC):
        return content
    end = len(content) - len(MAGIC) - TRAILER.size
    length = TRAILER.unpack_from(content, end)[-1] if end >= 0 else 0
    if not 0 < length <= end:
        raise SignatureError("the module ends with a signature whose length cannot be; build it again")
    return content[: end - length]


def sign(key: Path, certificate: Path, module: Path) -> None:
    """Replace ``module`` by itself with a signature at its end, by rename. Raises SignatureError and OSError."""
    content = unsigned(module.read_bytes())
    with tempfile.NamedTemporaryFile(dir=module.parent, prefix=f".{module.name}.", delete=False) as stream:
        temporary = Path(stream.name)
        try:
            stream.write(content)
            stream.flush()
            # No certificate and no attributes (a time among them): the kernel has the one and ignores the others.
            options = ["-binary", "-noattr", "-nocerts", "-nosmimecap", "-md", "sha256", "-outform", "DER"]
            signature = openssl("cms", "-sign", *options, "-inkey", key, "-signer", certificate, "-in", temporary)
            stream.write(signature + TRAILER.pack(0, 0, PKEY_ID_PKCS7, 0, 0, len(signature)) + MAGIC)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)
            os.utime(temporary, ns=(module.stat().st_mtime_ns, module.stat().st_mtime_ns))
            temporary.replace(module)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def main(arguments: list[str]) -> int:
    """Carry out one call; return the exit status."""
    try:
        match arguments:
            case ["check", key, certificate]:
                check(Path(key), Path(certificate))
            case ["sign", key, certificate, module]:
                sign(Path(key), Path(certificate), Path(module))
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except (SignatureError, OSError) as error:
        print(f"vllmd-nvidia: cannot sign modules: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
