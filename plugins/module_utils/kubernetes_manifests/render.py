# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""From runtimes to files: one for the namespace, one for each runtime, the same bytes for the same input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import network, objects, workload
from .names import MANAGER, labels, object_name
from .settings import RenderError, Settings
from .yaml_text import dump

#: The first line of every file; what does not begin with it was written by somebody else and is left alone.
MARK = "# Written by vllmd.platform.kubernetes_manifests; change the Runtime manifest or the settings instead.\n"
NAMESPACE_FILE = "00-namespace.yaml"

#: Policy checks (checkov) that an object does not hold to, each with its reason; they stand in the object itself.
_PULL_POLICY = "CKV_K8S_15=The image is named by digest, so a pull cannot bring another one"
_HIGH_USER = "CKV_K8S_40=The image's files belong to user 700, a number that Debian hands out on no host"
_SECRET_AS_FILE = "CKV_K8S_35=vLLM and huggingface_hub read these from the environment"  # noqa: S105


def runtime_objects(runtime: dict[str, Any], settings: Settings) -> list[dict[str, Any]]:
    """Return the runtime's objects in the order in which they are needed. Raises RenderError."""
    name = runtime["metadata"]["name"]
    if runtime["spec"]["placement"]["target"] != "kubernetes":
        raise RenderError(f"runtime {name}: spec.placement.target is not kubernetes; it runs on a hypervisor")
    own = labels(name, runtime["metadata"]["labels"])

    def metadata(**more: Any) -> dict[str, Any]:
        return {"name": object_name(name), "namespace": settings.namespace, "labels": own, **more}

    found = [objects.service_account(metadata()), network.policy(runtime, metadata(), settings)]
    if runtime["spec"]["storage"]["cache"]:
        found.append(objects.cache_claim(runtime, metadata(), settings))
    found.append(objects.service(runtime, metadata()))
    found.append(workload.deployment(runtime, metadata(), settings))
    found[-1]["metadata"]["annotations"] = _exceptions(found[-1])
    if workload.is_scaled(runtime):
        found.append(objects.autoscaler(runtime, metadata(), settings))
    found.append(objects.disruption_budget(runtime, metadata()))
    if settings.service_monitor:
        found.append(objects.service_monitor(runtime, metadata(), settings))
    return found


def _exceptions(deployment: dict[str, Any]) -> dict[str, str]:
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    reasons = [_PULL_POLICY, _HIGH_USER]
    if any("valueFrom" in each for each in container.get("env", [])):
        reasons.append(_SECRET_AS_FILE)
    return {f"checkov.io/skip{number}": reason for number, reason in enumerate(reasons, start=1)}


def files(runtimes: Iterable[dict[str, Any]], settings: Settings) -> dict[str, str]:
    """Return the files' names and texts, sorted; without a runtime there is none. Raises RenderError."""
    texts = {
        f"{runtime['metadata']['name']}.yaml": dump(runtime_objects(runtime, settings), MARK) for runtime in runtimes
    }
    if texts:
        ours = {"app.kubernetes.io/part-of": "vllmd", "app.kubernetes.io/managed-by": MANAGER}
        shared = [objects.namespace(settings.namespace, ours), network.default_deny(settings.namespace, ours)]
        texts[NAMESPACE_FILE] = dump(shared, MARK)
    return {name: texts[name] for name in sorted(texts)}
