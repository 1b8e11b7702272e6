# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Records of nodes read and written by an administrator's kubectl; the namespace is made with the first one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..kubernetes.errors import NodeError
from ..kubernetes.programs import Kubectl
from .records import LABELS, NAMESPACE, Record, config_map, read, written


@dataclass(frozen=True)
class Found:
    """A record and the ConfigMap that it stands in; None for both where there is none."""

    record: Record | None
    config_map: dict[str, Any] | None


@dataclass(frozen=True)
class Store:
    """All records of a cluster."""

    kubectl: Kubectl

    def read(self, node: str) -> Found:
        """Return a node's record. Raises NodeError, RecordError."""
        arguments = ("get", "configmap", node, "--namespace", NAMESPACE, "--ignore-not-found", "--output", "json")
        text = self.kubectl.must(f"cannot read what is registered of {node}", *arguments).strip()
        found = json.loads(text) if text else None
        return Found(read(found) if found else None, found)

    def write(self, found: Found, record: Record) -> None:
        """Write the record, unless somebody changed it since it was read. Raises NodeError."""
        what = f"cannot register node {record.name}"
        if found.config_map is None:
            create, document = ("create", "--filename", "-"), json.dumps(config_map(record))
            done = self.kubectl.run(*create, stdin=document)
            if done.status != 0 and f'namespaces "{NAMESPACE}" not found' in done.said:
                self.make_namespace()
                done = self.kubectl.run(*create, stdin=document)
            if done.status != 0:
                raise NodeError(f"{what}: {done.last_line}")
            return
        replaced = json.dumps({**found.config_map, "data": written(record)})
        self.kubectl.must(what, "replace", "--filename", "-", stdin=replaced)

    def make_namespace(self) -> bool:
        """Make the namespace of all records unless it is there; return whether it was not. Raises NodeError."""
        document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": dict(LABELS)}}
        done = self.kubectl.run("create", "--filename", "-", stdin=json.dumps(document))
        if done.status != 0 and "AlreadyExists" not in done.said and "already exists" not in done.said:
            raise NodeError(f"cannot make namespace {NAMESPACE}: {done.last_line}")
        return done.status == 0
