"""Cloud Hypervisor's published API description, as a judge of requests."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft4Validator

VARIABLE = "VLLMD_CLOUD_HYPERVISOR_OPENAPI"
CHECKOUT = Path(__file__).resolve().parents[2]
BESIDE = CHECKOUT.parent / "shared/data/cloud-hypervisor-v53-openapi.yaml"


def description_path() -> Path:
    """Return the description to judge by; RuntimeError says how to provide one."""
    path = Path(os.environ.get(VARIABLE) or BESIDE)
    if not path.is_file():
        raise RuntimeError(
            f"there is no Cloud Hypervisor API description at {path}: set {VARIABLE} to a copy of "
            "vmm/src/api/openapi/cloud-hypervisor.yaml from Cloud Hypervisor's sources (v53)"
        )
    return path


class CloudHypervisorApi:
    """Checks requests against the description, more strictly than it asks: unknown properties are faults too."""

    def __init__(self) -> None:
        self.document = _load(description_path())

    def check_request(self, method: str, resource: str, body: Any) -> None:
        """Raise AssertionError when the API has no such request, or its body does not fit."""
        operations = self.document["paths"].get(f"/{resource}", {})
        assert method.lower() in operations, f"the API has no {method} {resource}"
        content = operations[method.lower()].get("requestBody", {}).get("content")
        if content is None:
            assert body is None, f"{resource} takes no body, got {json.dumps(body)}"
            return
        schema = content["application/json"]["schema"] | {"components": self.document["components"]}
        faults = [f"{error.json_path}: {error.message}" for error in Draft4Validator(schema).iter_errors(body)]
        assert not faults, f"{resource} {json.dumps(body)}: {'; '.join(faults)}"


@lru_cache(maxsize=1)
def _load(path: Path) -> Any:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    for schema in document["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return document
