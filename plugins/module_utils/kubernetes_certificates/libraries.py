# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The libraries that read certificates and kubeconfigs, which a host may not have."""

from __future__ import annotations

from importlib.util import find_spec

_NAMES = {"cryptography": "cryptography", "yaml": "PyYAML"}


def missing() -> str:
    """Return the one that is not here, or an empty string."""
    return next((name for package, name in _NAMES.items() if find_spec(package) is None), "")
