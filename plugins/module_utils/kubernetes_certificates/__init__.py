# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Certificates of a Kubernetes cluster that kubeadm made: what there is, what is due, and rotation of an authority.

``layout`` says where kubeadm keeps what; ``certificates``, ``kubeconfigs`` and ``inventory`` read it; ``rotation``
decides what comes next; ``renewal``, ``member``, ``node`` and ``cluster`` bring it about, and ``components`` starts
again who has to. Needs cryptography and PyYAML.
"""
