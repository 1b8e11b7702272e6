# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""From a validated Runtime to what its virtual machine reads: launcher settings and the config image's files.

Pure functions over the dicts that ``manifests.load_runtimes`` returns. Standard library only, because the config image
is written on hypervisor hosts.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import uuid
from typing import Any

GUEST_MODELS_DIRPATH = "/var/lib/vllmd/models"
GUEST_API_PORT = 8000
#: kubernetes.io, "Bootstrap Tokens".
_TOKEN = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}", re.ASCII)
#: Namespace of runtime uids: the same name gives the same uid on every host and at every run.
_UID_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "runtime.vllmd.com")

#: QEMU's user-mode network always looks like this from inside (QEMU documentation, "Network emulation"). A static
#: address spares the guest the wait for DHCP.
_USER_NETWORK = {"mode": "static", "address": "10.0.2.15/24", "gateway": "10.0.2.2", "dns": ["10.0.2.3"]}


class ConfigError(ValueError):
    """The config image's content is not possible; the message is one line."""


def runtime_uid(name: str) -> str:
    """Return the runtime's uid (a UUID in text form), derived from its name."""
    return str(uuid.uuid5(_UID_NAMESPACE, name))


def runtime_json(
    runtime: dict[str, Any], ssh_authorized_keys: list[str] | None = None, uid: str | None = None
) -> dict[str, Any]:
    """Return the content of ``vllmd/runtime.json``, schema version 1, for a validated runtime.

    Raises ConfigError when a key is no one-line OpenSSH public key.
    """
    keys = [key.strip() for key in ssh_authorized_keys or [] if key.strip()]
    for key in keys:
        if "\n" in key or len(key.split()) < 2 or "PRIVATE KEY" in key:
            raise ConfigError(
                f"{key[:20]!r}... is no OpenSSH public key; give one line such as 'ssh-ed25519 AAAA... name'"
            )
    name = runtime["metadata"]["name"]
    spec = runtime["spec"]
    model = spec["model"]
    path = f"{GUEST_MODELS_DIRPATH}/{model['repository']}" if model["source"] == "local" else None
    guest = {
        "schema_version": 1,
        "name": name,
        "uid": uid or runtime_uid(name),
        "model": {
            "name": model["name"],
            "path": path,
            "repository": model["repository"],
            "source": model["source"],
        },
        "engine": dict(spec["engine"]),
        "environment": dict(spec["engine_environment"]),
        # The guest serves all of its addresses; what reaches it is decided outside, by spec.network.
        "api": {"host": "0.0.0.0", "port": GUEST_API_PORT},  # noqa: S104
        "hostname": name,
        "ssh_authorized_keys": keys,
        "network": guest_network(spec["network"]),
    }
    return guest | _optional(spec)


def _optional(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that differ from what a guest does without them: older images refuse fields they don't know."""
    found: dict[str, Any] = {}
    if spec.get("profile"):
        found["profile"] = spec["profile"]
    cache = spec.get("storage", {}).get("cache")
    if cache:
        found["storage"] = {"cache": {"format": cache["format"], "required": cache["required"]}}
    if not spec.get("monitoring", {}).get("node_exporter", True):
        found["monitoring"] = {"node_exporter": False}
    if spec.get("kubernetes"):
        found["kubernetes"] = {name: value for name, value in spec["kubernetes"].items() if value}
    return found


def with_token(guest: dict[str, Any], token: str | None) -> dict[str, Any]:
    """Return the guest's ``runtime.json`` with the bootstrap token of the cluster that it names.

    The token is no part of what `runtime_json` returns, so that results and loops of a playbook never hold it. Raises
    ConfigError when only one of the two, section and token, is there or the token is none; the message has no token.
    """
    section = guest.get("kubernetes")
    if section is None:
        if token:
            raise ConfigError("kubernetes_token is given, but guest has no kubernetes; remove one or add the other")
        return guest
    if not token:
        raise ConfigError(
            f"guest is to join {section['api_endpoint']} without a token; give kubernetes_token "
            "(in the playbooks: vllmd_kubernetes_tokens, by api_endpoint)"
        )
    if not _TOKEN.fullmatch(token):
        raise ConfigError(
            "kubernetes_token is no bootstrap token, 6 and 16 characters of a-z and 0-9 with a dot between; "
            "make one with 'kubeadm token create'"
        )
    return {**guest, "kubernetes": {**section, "token": token}}


def token_of(guest: dict[str, Any]) -> str:
    """Return the bootstrap token of a config image's ``runtime.json``, empty when it has none."""
    section = guest.get("kubernetes")
    token = section.get("token") if isinstance(section, dict) else None
    return token if isinstance(token, str) and _TOKEN.fullmatch(token) else ""


def machine_id(guest: dict[str, Any]) -> str:
    """Return the machine id (machine-id(5)) of a guest that joins a cluster: its uid, which is its own for good."""
    return str(guest["uid"]).replace("-", "")


def without_secrets(guest: dict[str, Any]) -> dict[str, Any]:
    """Return the guest's ``runtime.json`` without what nobody else may read: the token."""
    if not isinstance(guest.get("kubernetes"), dict):
        return guest
    section = {name: value for name, value in guest["kubernetes"].items() if name != "token"}
    return {**guest, "kubernetes": section}


def guest_network(network: dict[str, Any]) -> dict[str, Any]:
    """Return how the guest sets its interface: ``dhcp``, or ``static`` with address, gateway (or None) and dns."""
    if network["mode"] == "user":
        return {**_USER_NETWORK, "dns": list(_USER_NETWORK["dns"])}
    if not network.get("address"):
        return {"mode": "dhcp"}
    return {
        "mode": "static",
        "address": network["address"],
        "gateway": network.get("gateway"),
        "dns": list(network.get("dns") or []),
    }


def launcher_memory(runtime: dict[str, Any], hugepages: bool = False) -> str:
    """Return ``VLLMD_HYPERVISOR_MEMORY_CONFIG`` for the runtime, such as ``size=16384M,shared=on`` (M is MiB there)."""
    size = f"size={runtime['spec']['resources']['memory_mib']}M,shared=on"
    return f"{size},hugepages=on" if hugepages else size


def launcher_network(runtime: dict[str, Any]) -> str:
    """Return ``VLLMD_HYPERVISOR_NETWORK`` for the runtime."""
    network = runtime["spec"]["network"]
    if network["mode"] == "user":
        forwards = [
            f"forward={each['host_address']}:{each['host_port']}:{each['guest_port']}" for each in network["forward"]
        ]
        return ",".join(["mode=user", *forwards])
    tap = network.get("tap") or tap_name(runtime["metadata"]["name"])
    optional = [f"{key}={network[key]}" for key in ("bridge", "mac") if network.get(key)]
    return ",".join(["mode=tap", f"tap={tap}", *optional])


def tap_name(name: str) -> str:
    """Return the name of the tap of the runtime ``name``: always the same, and short enough for the kernel."""
    return "vm" + hashlib.sha256(name.encode()).hexdigest()[:10]


def launcher_settings(runtime: dict[str, Any]) -> dict[str, Any]:
    """Return what the launcher's environment needs from the runtime: ``cpu_count``, ``memory_config``, ``network``."""
    return {
        "cpu_count": runtime["spec"]["resources"]["cpu"],
        "memory_config": launcher_memory(runtime),
        "network": launcher_network(runtime),
    }


def config_files(guest: dict[str, Any]) -> dict[str, bytes]:
    """Return the config image's files, path to content, for a ``runtime_json`` dict.

    The NoCloud files are JSON, which is YAML: a stock cloud image reads them with cloud-init, our guest reads
    ``vllmd/runtime.json`` alone.
    """
    instance_id = f"{guest['name']}-{hashlib.sha256(_json(guest)).hexdigest()[:12]}"
    user_data = {
        "hostname": guest["hostname"],
        "disable_root": False,
        "ssh_pwauth": False,
        "ssh_authorized_keys": guest["ssh_authorized_keys"],
    }
    return {
        "meta-data": _json({"instance-id": instance_id, "local-hostname": guest["hostname"]}),
        "user-data": b"#cloud-config\n" + _json(user_data),
        "network-config": _json(network_config(guest["network"])),
        "vllmd/runtime.json": _json(guest),
    }


def network_config(network: dict[str, Any]) -> dict[str, Any]:
    """Return the guest's network as cloud-init's network configuration, version 2."""
    interface: dict[str, Any] = {"match": {"name": "e*"}}
    if network["mode"] == "dhcp":
        interface["dhcp4"] = True
    else:
        interface["dhcp4"] = False
        interface["addresses"] = [str(ipaddress.IPv4Interface(network["address"]))]
        if network.get("gateway"):
            interface["routes"] = [{"to": "0.0.0.0/0", "via": network["gateway"]}]
        if network.get("dns"):
            interface["nameservers"] = {"addresses": network["dns"]}
    return {"version": 2, "ethernets": {"primary": interface}}


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
