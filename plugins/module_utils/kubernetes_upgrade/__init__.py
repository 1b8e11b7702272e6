# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Upgrading a cluster: which steps, in which order, what is refused. Pure functions over what the API server says."""
