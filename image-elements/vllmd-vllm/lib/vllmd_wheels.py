"""Print the distributions of the running environment as JSON, name -> version, without the installer itself."""

from __future__ import annotations

import json
from importlib import metadata

INSTALLER = {"pip"}

found = {dist.metadata["Name"].lower().replace("_", "-"): dist.version for dist in metadata.distributions()}
print(json.dumps({name: version for name, version in sorted(found.items()) if name not in INSTALLER}))
