"""Turn the hardware profiles into the JSON that the guest reads, or say in one line which field of which is wrong.

Usage: vllmd_profiles.py PROFILES_DIRECTORY PACKAGE_DIRECTORY OUTPUT (run by a Python that has PyYAML; the guest needs
none). PACKAGE_DIRECTORY holds vllmd_node, whose checks are the guest's own.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import yaml


def convert(directory: Path) -> str:
    """Return the checked profiles of ``directory``, by name, as JSON text. ValueError is one line."""
    profiles = importlib.import_module("vllmd_node.profiles")
    documents = {}
    for path in sorted(directory.glob("*.yaml")):
        try:
            documents[path.name] = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    if not documents:
        raise ValueError(f"{directory} holds no profile; the files end in .yaml")
    return json.dumps(profiles.check_all(documents), indent=1, sort_keys=True) + "\n"


def main() -> int:
    """Write OUTPUT; return the exit status."""
    directory, package, output = map(Path, sys.argv[1:4])
    sys.path.insert(0, str(package))
    try:
        text = convert(directory)
    except ValueError as error:
        print(f"vllmd-runtime: {error}", file=sys.stderr)
        return 1
    output.write_text(text, encoding="utf-8")
    print(f"vllmd-runtime: {text.count('schema_version')} hardware profiles")
    return 0


if __name__ == "__main__":
    sys.exit(main())
