"""The image file itself: what is baked into it is in every guest, so it must hold nothing that is secret or unique."""

from __future__ import annotations

import os
import subprocess

import pytest

testinfra_hosts = ["local://"]
IMAGE = "/var/lib/vllmd/images/vllmd-cpu/latest/system.raw"


def inside(command: str) -> list[str]:
    """Lines of a shell command's output, run in the image's root, mounted read-only in a namespace of its own."""
    script = f'mount -o ro,loop,noload "$IMAGE" /mnt && cd /mnt && {{ {command}; }}'
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "IMAGE": IMAGE},
    )
    assert result.stderr == ""
    return result.stdout.splitlines()


@pytest.mark.parametrize(
    ("what", "command"),
    [
        ("SSH host keys", "find etc/ssh -name 'ssh_host_*'"),
        ("authorized keys", "find root home etc run var -name 'authorized_keys*'"),
        ("private keys", "grep -rlIE '^-----BEGIN ([A-Z]+ )?PRIVATE KEY-----$' . || [ $? = 1 ]"),
        ("password hashes", "awk -F: '$2 !~ /^[!*]/ {print $1}' etc/shadow"),
        ("empty passwords", "awk -F: '$2 != \"x\" {print $1}' etc/passwd"),
        ("a machine id", "grep -v uninitialized etc/machine-id || [ $? = 1 ]"),
        ("a random seed", "find var/lib/systemd -name random-seed -o -name credential.secret"),
        (
            "histories and credentials",
            "find root home etc -name '.*_history' -o -name .netrc -o -name .pypirc -o -name pip.conf",
        ),
        ("proxy or mirror credentials", "grep -rE '://[^/ ]+:[^/ ]+@' etc/apt etc/environment || [ $? = 1 ]"),
        ("name servers of the builder", "grep -rsl ^nameserver etc || [ $? = 1 ]"),
        ("logs of the build", "find var/log -type f -size +0"),
        ("leftovers in temporary directories", "find tmp var/tmp -mindepth 1"),
        ("world-writable files", "find . -xdev -type f -perm -002"),
        ("device nodes", "find . -xdev -path ./dev -prune -o '(' -type b -o -type c ')' -print"),
    ],
)
def test_image_holds_no(what: str, command: str) -> None:
    found = inside(command)
    assert not found, f"the image holds {what}: {found}"


def test_the_mounted_image_really_is_one() -> None:
    assert inside("test -x usr/lib/systemd/systemd && test -x opt/vllmd/bin/python && echo yes") == ["yes"]
