"""What we know of each hardware: one profile per family, chosen by PCI id.

The image's build turns profiles/*.yaml into one JSON file and checks it with the same code that reads it here.
"""
# ruff: noqa: PTH123 -- pathlib only to read one file

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

FILE = "/usr/lib/vllmd/profiles.json"
NONE = "none"
_FIELDS = {
    "schema_version": "1",
    "name": "text of a-z, 0-9 and -",
    "description": "one line of text",
    "sources": "a list of one line texts, where ids and figures come from",
    "devices": "a list of {pci, name, memory_mib, link}; empty for the profile of machines without a GPU",
    "tensor_parallel": "all, or a whole number from 1",
    "overhead_mib": "a whole number: what a GPU's memory holds besides weights, activations and cache",
    "swap_gib": "a number from 0: guest memory for cached keys and values that leave the accelerator",
    "engine": "a mapping of vLLM options, as its command line spells them, without dashes in front",
    "environment": "a mapping of environment variables, text to text",
}
_REQUIRED = ("schema_version", "name", "description", "devices", "engine")
_DEVICE_FIELDS = {"pci": str, "name": str, "memory_mib": int, "link": str}
_LINKS = ("pcie", "nvlink")
_DEFAULTS: dict[str, Any] = {
    "sources": [],
    "tensor_parallel": "all",
    "overhead_mib": 1024,
    "swap_gib": 0,
    "environment": {},
}
_OPTION = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")
#: Set from the runtime's own fields, never from a profile.
_RESERVED = ("config", "host", "model", "port", "served-model-name")


class ProfileError(ValueError):
    """A profile is wrong; the message is one line that names the field."""


def check(profile: Any, where: str) -> dict[str, Any]:
    """Return the profile with defaults applied; ProfileError names the first wrong field of ``where``."""
    if not isinstance(profile, dict):
        raise ProfileError(f"{where} is not a mapping; begin it with schema_version: 1")
    for field in profile:
        if field not in _FIELDS:
            raise ProfileError(f"{where}: {field} is not a known field; known: {', '.join(_FIELDS)}")
    for field in _REQUIRED:
        if field not in profile:
            raise ProfileError(f"{where}: {field} is missing; it is {_FIELDS[field]}")
    checked = {**_DEFAULTS, **profile}
    good = {
        "schema_version": checked["schema_version"] == 1 and checked["schema_version"] is not True,
        "name": _text(checked["name"]) and _OPTION.issuperset(checked["name"]) and checked["name"] != NONE,
        "description": _text(checked["description"]),
        "sources": isinstance(checked["sources"], list) and all(map(_text, checked["sources"])),
        "tensor_parallel": checked["tensor_parallel"] == "all" or _whole(checked["tensor_parallel"], 1),
        "overhead_mib": _whole(checked["overhead_mib"], 0),
        "swap_gib": _number(checked["swap_gib"]),
        "engine": isinstance(checked["engine"], dict),
        "environment": isinstance(checked["environment"], dict)
        and all(_text(name) and _text(value) for name, value in checked["environment"].items()),
        "devices": isinstance(checked["devices"], list),
    }
    for field, fine in good.items():
        if not fine:
            raise ProfileError(f"{where}: {field} is {_shown(checked[field])}; it has to be {_FIELDS[field]}")
    _check_engine(checked["engine"], where)
    for index, device in enumerate(checked["devices"]):
        _check_device(device, f"{where}: devices[{index}]")
    return checked


def check_all(profiles: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Check profiles by file name; return them by their own name. A name or PCI id belongs to one profile only."""
    checked: dict[str, dict[str, Any]] = {}
    owners: dict[str, str] = {}
    for where, profile in profiles.items():
        each = check(profile, where)
        if each["name"] in checked:
            raise ProfileError(f"{where}: name {each['name']} is also another file's; names are unique")
        checked[each["name"]] = each
        for pci in [device["pci"] for device in each["devices"]] or ["no GPU"]:
            if pci in owners:
                raise ProfileError(f"{where}: {pci} is also in profile {owners[pci]}; one profile serves one device")
            owners[pci] = each["name"]
    return checked


def load(path: str = FILE) -> dict[str, dict[str, Any]]:
    """Return the image's profiles by name. ProfileError when the file cannot be read or is wrong."""
    try:
        with open(path, encoding="utf-8") as stream:
            document = json.load(stream)
    except OSError as error:
        raise ProfileError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ProfileError(f"{path} is not JSON; the image is damaged") from None
    if not isinstance(document, dict):
        raise ProfileError(f"{path} is not a JSON object; the image is damaged")
    return check_all(document)


def choose(profiles: dict[str, dict[str, Any]], pci_ids: list[str], wanted: str = "") -> dict[str, Any] | None:
    """Return the profile for GPUs with ``pci_ids`` (none: the one without devices), or the one ``wanted`` by name.

    None where no profile fits, where the GPUs belong to different ones, or where ``wanted`` is ``none``. ProfileError
    when there is no profile of the wanted name.
    """
    if wanted == NONE:
        return None
    if wanted:
        if wanted not in profiles:
            known = ", ".join([*sorted(profiles), NONE])
            raise ProfileError(f"profile {wanted} is not in this image; it has {known}")
        return profiles[wanted]
    found = [
        next((each for each in profiles.values() if any(device["pci"] == pci for device in each["devices"])), None)
        for pci in sorted(set(pci_ids))
    ]
    if not pci_ids:
        found = [next((each for each in profiles.values() if not each["devices"]), None)]
    return found[0] if all(each is found[0] for each in found) else None


def memory_bytes(profile: Mapping[str, Any], pci_id: str) -> int:
    """Return what a CUDA program sees of the device's memory; 0 when the profile does not know the device."""
    return next((device["memory_mib"] for device in profile["devices"] if device["pci"] == pci_id), 0) * 1024**2


def _check_engine(engine: dict[str, Any], where: str) -> None:
    for option, value in engine.items():
        if not _text(option) or not _OPTION.issuperset(option) or not option[0].isalpha():
            raise ProfileError(f"{where}: engine.{option} is no vLLM option; write it without dashes in front")
        if option in _RESERVED:
            raise ProfileError(f"{where}: engine.{option} comes from the runtime, not from a profile; leave it out")
        if value is None:
            raise ProfileError(f"{where}: engine.{option} has no value")


def _check_device(device: Any, where: str) -> None:
    if not isinstance(device, dict) or set(device) != set(_DEVICE_FIELDS):
        raise ProfileError(f"{where} is {_shown(device)}; it has to have exactly {', '.join(_DEVICE_FIELDS)}")
    vendor, number = (*device["pci"].split(":", 1), "")[:2] if isinstance(device["pci"], str) else ("", "")
    hexadecimal = frozenset("0123456789abcdef")
    if not (len(vendor) == len(number) == 4 and hexadecimal.issuperset(vendor + number)):
        raise ProfileError(f"{where}.pci is {_shown(device['pci'])}; it has to be vendor:device such as 10de:2236")
    if not _text(device["name"]):
        raise ProfileError(f"{where}.name is {_shown(device['name'])}; it has to be one line of text")
    if not _whole(device["memory_mib"], 1024):
        raise ProfileError(f"{where}.memory_mib is {_shown(device['memory_mib'])}; it has to be a whole number of MiB")
    if device["link"] not in _LINKS:
        raise ProfileError(f"{where}.link is {_shown(device['link'])}; it has to be {' or '.join(_LINKS)}")


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()


def _whole(value: Any, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value < 2**40


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e6


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)[:60]
