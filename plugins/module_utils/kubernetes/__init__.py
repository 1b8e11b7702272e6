# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Nodes of a Kubernetes cluster: what a host must be, how it joins, what it says of itself, what it leaves behind."""
