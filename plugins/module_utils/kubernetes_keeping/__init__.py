# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Keeping a control plane: snapshots of etcd, bringing one back, health and recovery.

The role puts these files on members as they are, so they are for Python's standard library alone.
"""
