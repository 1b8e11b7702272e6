"""Take secrets out of text that leaves the guest.

Three nets, each for what slips through the others: values whose name says that they are secret, the values of the
runtime's own environment wherever they turn up again, and texts that look like well-known credentials.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

HIDDEN = "(hidden)"
_SECRET_WORDS = frozenset(
    [
        "token",
        "secret",
        "secrets",
        "password",
        "passwd",
        "passphrase",
        "key",
        "keys",
        "apikey",
        "credential",
        "credentials",
        "auth",
        "authorization",
        "bearer",
        "cookie",
        "signature",
    ]
)
#: Variables whose values say how the engine runs and are no secret, by how they begin.
_OPEN: tuple[str, ...] = (
    "VLLM_",
    "VLLMD_",
    "OMP_",
    "MKL_",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
    "HF_HUB_CACHE",
    "CUDA_VISIBLE",
)
_OPEN += ("TORCHINDUCTOR_", "TRITON_", "NCCL_", "HOME", "TMPDIR", "DO_NOT_TRACK", "PYTHON", "no_proxy", "NO_PROXY")
_SHORTEST = 6  # a shorter secret would hide half of the log with it

_PATTERNS = (
    # PEM blocks, also in one line of JSON.
    (re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.S), HIDDEN),
    (re.compile(r"://[^/\s:@\"']+:[^/\s@\"']+@"), f"://{HIDDEN}@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"\b(?:hf|sk|pk|rk|ghp|gho|ghs|glpat|xox[abpr]|nvapi|pypi|dckr_pat)[-_][A-Za-z0-9_-]{12,}"), HIDDEN),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), HIDDEN),
    (re.compile(r"\bhv[sb]\.[A-Za-z0-9_-]{12,}"), HIDDEN),
)
# NAME=value, name: value, "name": "value", --name value; the name is looked at afterwards.
_ASSIGNMENT = re.compile(
    r"""(?P<name>["']?[A-Za-z][A-Za-z0-9_.-]*["']?)(?P<sign>\s*[=:]\s*)(?P<value>"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s,;{}\[\]()"'=]+=*)"""
)
_OPTION = re.compile(r"(?P<name>--[A-Za-z][A-Za-z0-9_-]*)(?P<sign>\s+)(?P<value>[^\s-]\S*)")
_SPLIT = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")


def is_secret(name: str) -> bool:
    """Whether a variable's or an option's name says that its value is secret (``HF_TOKEN``, ``api-key``)."""
    words = [word.lower() for word in _SPLIT.split(name) if word]
    # A file's path or a public key is none.
    if words[-1:] and words[-1] in ("file", "path", "pub", "public"):
        return False
    return not _SECRET_WORDS.isdisjoint(words)


def is_open(name: str) -> bool:
    """Whether an environment variable's value may be shown."""
    return name.startswith(_OPEN) and not is_secret(name)


def secrets_of(environment: dict[str, Any]) -> list[str]:
    """Return the values of an environment that have to be hidden wherever they turn up, longest first."""
    values = {str(value) for name, value in environment.items() if not is_open(name)}
    return sorted((value for value in values if len(value) >= _SHORTEST), key=len, reverse=True)


def environment_text(text: str) -> dict[str, str]:
    """Return the variables of a file in systemd's EnvironmentFile= format, as far as this guest writes it."""
    found = {}
    for line in text.splitlines():
        name, sign, value = line.partition("=")
        if sign and not line.startswith("#"):
            found[name] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] == value[-1:] == '"' else value
    return found


def text(content: str, secrets: Iterable[str] = ()) -> str:
    """Return ``content`` without ``secrets``, without values of secret names, and without well-known credentials."""
    for secret in secrets:
        content = content.replace(secret, HIDDEN)
        escaped = json.dumps(secret)[1:-1]
        if escaped != secret:
            content = content.replace(escaped, HIDDEN)
    for pattern, shown in _PATTERNS:
        content = pattern.sub(shown, content)
    content = _ASSIGNMENT.sub(_hide, content)
    return _OPTION.sub(_hide, content)


def document(value: Any, name: str = "") -> Any:
    """Return plain data with the values of secret names hidden; an ``environment`` shows only what is_open allows."""
    if isinstance(value, dict):
        if name == "environment":
            return {key: each if is_open(key) else HIDDEN for key, each in value.items()}
        return {key: document(each, str(key)) for key, each in value.items()}
    if is_secret(name) and value not in (None, True, False, "", []):
        # Public keys are listed by what they are, not hidden: they say who may log in.
        if name == "ssh_authorized_keys" and isinstance(value, list):
            return [" ".join(str(each).split()[:1] + str(each).split()[2:]) for each in value]
        return HIDDEN
    return [document(each, name) for each in value] if isinstance(value, list) else value


def _hide(match: re.Match[str]) -> str:
    name = match["name"].strip("\"'-")
    if not is_secret(name) or match["value"].strip("\"'").lower() in ("", "none", "null", "true", "false", HIDDEN):
        return match[0]
    quote = match["value"][0] if match["value"][0] in "\"'" else ""
    return f"{match['name']}{match['sign']}{quote}{HIDDEN}{quote}"
