# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A Runtime on Kubernetes: from a validated manifest to the objects that serve it, as plain data and as YAML."""
