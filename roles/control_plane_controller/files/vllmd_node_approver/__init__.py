# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The approver of nodes' certificates: what is as it was registered is approved, and the rest denied."""
