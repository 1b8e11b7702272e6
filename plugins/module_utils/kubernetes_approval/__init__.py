# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which certificates a cluster's nodes get: what is registered of one, what it asks for, and whether
that is the same.
"""
