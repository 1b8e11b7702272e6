# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_manifests
short_description: Write Runtimes as manifests for a Kubernetes cluster
version_added: 0.1.0
description:
  - Writes one file for each Runtime whose C(spec.placement.target) is C(kubernetes), with the objects that serve it,
    and C(00-namespace.yaml) with the namespace and its default NetworkPolicy. Nothing is sent to a cluster.
  - The same input gives the same bytes. Files that this module wrote for runtimes which are gone are removed; other
    files in the directory are left alone. An empty list of runtimes removes all that were written.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  action:
    description: The action runs on the controller alone.
    support: full
  check_mode:
    description: Tells which files would be written or removed.
    support: full
  diff_mode:
    description: Shows each file before and after.
    support: full
options:
  path:
    description: The directory on the controller.
    type: path
    required: true
  runtimes:
    description: The runtimes, as M(vllmd.platform.runtime_manifest) returns them with C(target=kubernetes).
    type: list
    elements: dict
    required: true
  namespace:
    description: The namespace of all of them. Without it C(vllmd).
    type: str
  images:
    description:
      - Where the cluster gets the images that manifests name, as C(registry/name@sha256:...). A reference without a
        digest is refused.
      - The key is C(spec.image.name); for a manifest with C(spec.image.version) it is C(NAME:VERSION).
    type: dict
  image_pull_secrets:
    description: Names of Secrets of the namespace for the registry.
    type: list
    elements: str
  accelerator_resources:
    description:
      - The device plugin's resource, by accelerator type; C(default) is for runtimes that name no type.
      - Without it types that begin with C(nvidia-) are C(nvidia.com/gpu), C(amd-) are C(amd.com/gpu).
    type: dict
  runtime_class:
    description: RuntimeClass of pods with accelerators. Without it the container runtime's own default.
    type: str
  storage_class:
    description: StorageClass of the model caches. Without it the cluster's default.
    type: str
  cache_access_mode:
    description:
      - Replicas share the cache, and while a rollout lasts an old and a new pod do, so C(ReadWriteMany) if nothing is
        given.
      - With V(ReadWriteOnce) a runtime has one replica at most; its old pod goes before the new one comes.
    type: str
    choices: [ReadWriteMany, ReadWriteOnce]
  scratch_size:
    description: Most that a pod without C(spec.storage.cache) may keep on its node. Without it C(100Gi).
    type: str
  scaling_metric:
    description:
      - What autoscalers look at. V(cpu) needs the resource metrics API, V(queue) the custom metrics API with
        O(queue_metric). C(cpu) if nothing is given.
    type: str
    choices: [cpu, queue]
  cpu_percent:
    description: Part of the requested CPUs, in percent, above which a replica is added. Without it C(80).
    type: int
  queue_metric:
    description: The metric of a pod that counts its waiting requests. Without it C(vllm_num_requests_waiting).
    type: str
  queue_length:
    description: Waiting requests for each replica, above which one is added. Without it C(4).
    type: int
  start_seconds:
    description: How long a pod may take to download and load its model. Without it C(3600).
    type: int
  endpoint_seconds:
    description: How long a pod goes on serving after it was told to end, until nothing leads to it. Without it C(15).
    type: int
  drain_seconds:
    description:
      - How long its requests may then take. Without it C(300). C(shutdown-timeout) in C(spec.engine) is stronger.
    type: int
  client_namespaces:
    description:
      - Namespaces whose pods may use the API. In the runtimes' own namespace pods with the label
        C(vllmd.com/client=true) may.
    type: list
    elements: str
  monitoring_namespace:
    description: The namespace of Prometheus. Without it C(monitoring).
    type: str
  service_monitor:
    description: Whether to write ServiceMonitors, which need the Prometheus operator. Without it C(true).
    type: bool
  service_monitor_labels:
    description: Labels that Prometheus selects ServiceMonitors by.
    type: dict
  private_networks:
    description:
      - What C(0.0.0.0/0) and other larger networks leave out. Without it the private ones of RFC 1918, RFC 6598 and
        RFC 3927.
    type: list
    elements: str
  cluster:
    description:
      - What the cluster has, to say before anything is written which runtime would find no place in it, and the nearest
        node. C(nodes), C(pods) and C(runtime_classes) are the lists that C(kubectl get --output=json) has as C(items).
      - Without it nothing is said about places.
    type: dict
  secrets:
    description: Environment variables that keys of Secrets hold. The Secrets are made by somebody else.
    type: list
    elements: dict
    suboptions:
      variable:
        description: The variable's name, such as C(HF_TOKEN).
        type: str
        required: true
      secret:
        description: The Secret's name.
        type: str
        required: true
      key:
        description: The key in it.
        type: str
        required: true
      runtimes:
        description: The runtimes that get it. Without it all of them.
        type: list
        elements: str
seealso:
  - module: vllmd.platform.runtime_manifest
"""

EXAMPLES = r"""
- name: Read the runtimes that are for the cluster
  vllmd.platform.runtime_manifest:
    path: "{{ inventory_dir }}/runtimes"
    target: kubernetes
  register: manifests

- name: Write what the cluster is to be given
  vllmd.platform.kubernetes_manifests:
    path: "{{ inventory_dir }}/kubernetes"
    runtimes: "{{ manifests.runtimes }}"
    images:
      vllmd-cuda: "registry.example.com/vllmd-cuda@sha256:{{ cuda_digest }}"
"""

RETURN = r"""
path:
  description: O(path).
  returned: success
  type: str
files:
  description: Names of all files that belong to the runtimes.
  returned: success
  type: list
  elements: str
written:
  description: Those that were, or in check mode would be, written.
  returned: success
  type: list
  elements: str
removed:
  description: Those that were, or in check mode would be, removed, because their runtime is gone.
  returned: success
  type: list
  elements: str
"""
