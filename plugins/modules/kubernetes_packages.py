#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_packages
short_description: Install Debian packages in the versions that a node needs, and hold them
version_added: 0.1.0
description:
  - Installs what is missing or has another version than asked for, from the apt sources of the host or from a directory
    of packages whose digests are checked, and marks packages so that upgrades of the host leave them alone.
  - Nothing is asked of a repository when everything is there.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says what would be installed or removed, and does nothing.
    support: full
  diff_mode:
    description: Shows each package's version before and after.
    support: full
options:
  packages:
    description: The packages, name to version. A version is the upstream part, such as V(1.33.1); empty takes any.
    type: dict
    required: true
  state:
    description: V(absent) removes the packages and takes their marks away.
    type: str
    choices: [present, absent]
    default: present
  hold:
    description: Names of those that only this module may change.
    type: list
    elements: str
    default: []
  directory:
    description:
      - A directory on the host with packages and F(SHA256SUMS), what C(sha256sum *.deb) writes. What is not in it
        comes from the apt sources.
    type: path
  files:
    description: What apt needs to know first, a source and its key. With O(state=absent) they stay.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The file; its directory is made.
        type: path
        required: true
      content:
        description: What is in it.
        type: str
        required: true
  source_list:
    description:
      - The one file of apt sources that has the packages in O(hold). When nothing else is missing, only that is asked.
    type: path
"""

EXAMPLES = r"""
- name: Install kubelet and kubeadm
  vllmd.platform.kubernetes_packages:
    packages: {kubelet: 1.33.1, kubeadm: 1.33.1, containerd: ""}
    hold: [kubelet, kubeadm]
"""

RETURN = r"""
written:
  description: Those of O(files) that were written or would be.
  returned: success
  type: list
  elements: str
installed:
  description: Packages that were installed or would be, with their versions.
  returned: success
  type: list
  elements: str
"""

import hashlib
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import host_files
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import packages as rules
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import run

_APT_SECONDS = 1800
_APT = {"DEBIAN_FRONTEND": "noninteractive"}

#: There on a host that is a node; kubeadm writes it.
KUBELET_CONFIG = Path("/var/lib/kubelet/config.yaml")


def status(names: list[str]) -> dict[str, rules.Installed]:
    """Return what of ``names`` is installed. Raises NodeError."""
    shown = run(["dpkg-query", "--show", "--showformat=${Package} ${Version} ${db:Status-Abbrev}\n", *names])
    held = run(["apt-mark", "showhold"])
    return rules.read_status(shown.output, held.output.split())


def apt(*arguments: str) -> None:
    """Run apt-get. Raises NodeError with its last line."""
    done = run(
        ["apt-get", "--quiet", "--yes", "--option", "DPkg::Lock::Timeout=120", *arguments],
        timeout_seconds=_APT_SECONDS,
        environment=_APT,
    )
    if done.status != 0:
        errors = [" ".join(line.split()) for line in done.said.splitlines() if line.startswith("E: ")]
        raise NodeError(f"apt-get {arguments[0]} failed: {'; '.join(errors)[:600] or done.last_line}")


def offered(directory: Path) -> dict[str, tuple[str, Path]]:
    """Return version and file of each package in ``directory``, by name, every digest checked. Raises NodeError."""
    try:
        listed = rules.read_digests((directory / "SHA256SUMS").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise NodeError(f"cannot read {directory}/SHA256SUMS: {error}; write it with 'sha256sum *.deb'") from None
    found: dict[str, tuple[str, Path]] = {}
    for name, digest in sorted(listed.items()):
        path = directory / name
        try:
            with path.open("rb") as stream:
                actual = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise NodeError(
                f"cannot read {path}: {error.strerror}; put it there or take it out of SHA256SUMS"
            ) from None
        if actual != digest:
            raise NodeError(f"{path} has sha256 {actual}, SHA256SUMS says {digest}; fetch the package again")
        done = run(["dpkg-deb", "--show", "--showformat=${Package} ${Version}", str(path)])
        if done.status != 0 or len(done.output.split()) != 2:
            raise NodeError(f"{path} is no Debian package: {done.last_line}")
        package, version = done.output.split()
        found[package] = (version, path)
    return found


def update(source_list: str | None) -> None:
    """Fetch apt's lists, those of one file of sources or all. Raises NodeError."""
    # Without clean-up, or the lists of all other sources would go.
    only = ("Dir::Etc::SourceParts=-", "APT::Get::List-Cleanup=0", f"Dir::Etc::SourceList={source_list}")
    apt("update", "--error-on=any", *(f"--option={option}" for option in only if source_list))


def install(lacks: dict[str, str], given: dict[str, Any]) -> list[str]:
    """Install ``lacks`` and return ``NAME=VERSION`` for each. Raises NodeError."""
    files = offered(Path(given["directory"])) if given["directory"] else {}
    from_files = {name: files[name] for name in lacks if name in files}
    for name, (version, path) in from_files.items():
        if not rules.is_wanted(version, lacks[name]):
            raise NodeError(f"{path} is {name} {version}, and {lacks[name]} is asked for; correct one")
    others = {name: version for name, version in lacks.items() if name not in files}
    chosen: list[str] = []
    if others:
        own = given["source_list"] if set(others) <= set(given["hold"]) else None
        update(own)
        offers = rules.read_offers(run(["apt-cache", "madison", *sorted(others)]).output)
        chosen = rules.choose(others, offers, own or "the host's apt sources")
    apt(
        "install",
        "--no-install-recommends",
        "--allow-change-held-packages",
        "--allow-downgrades",
        *chosen,
        *(str(path) for _version, path in from_files.values()),
    )
    return sorted([*chosen, *(f"{name}={version}" for name, (version, _path) in from_files.items())])


def main() -> None:
    """Run the module."""
    file = {"path": {"type": "path", "required": True}, "content": {"type": "str", "required": True}}
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "dict", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "hold": {"type": "list", "elements": "str", "default": []},
            "directory": {"type": "path"},
            "files": {"type": "list", "elements": "dict", "default": [], "options": file},
            "source_list": {"type": "path"},
        },
        supports_check_mode=True,
    )
    given = module.params
    wanted = {str(name): str(version or "") for name, version in given["packages"].items()}
    try:
        result = bring(module, given, wanted) if given["state"] == "present" else remove(module, wanted)
    except (NodeError, host_files.FilesError) as error:
        module.fail_json(msg=f"packages: {error}")
    module.exit_json(**result)


def bring(module: AnsibleModule, given: dict[str, Any], wanted: dict[str, str]) -> dict[str, Any]:
    """Write apt's files, install what is lacking and hold; return the module's result. Raises NodeError, FilesError."""
    files = [host_files.File(Path(each["path"]), each["content"].encode()) for each in given["files"]]
    changes, _directories, _links = host_files.compare([], files, {})
    if not module.check_mode:
        host_files.write([], [file for file, _before in changes.files], [])
    before = status(list(wanted))
    if KUBELET_CONFIG.exists():
        rules.refuse_older_kubelet(wanted, before)
    lacks = rules.lacking(wanted, before)
    unheld = [name for name in given["hold"] if name in wanted and (name not in before or not before[name].is_held)]
    installed = [f"{name}={version}" if version else name for name, version in sorted(lacks.items())]
    if not module.check_mode:
        if lacks:
            installed = install(lacks, given)
        if unheld:
            held = run(["apt-mark", "hold", *unheld])
            if held.status != 0:
                raise NodeError(f"apt-mark hold failed: {held.last_line}")
    versions = dict(each.partition("=")[::2] for each in installed)
    after = {name: versions.get(name) or (before[name].version if name in before else "") for name in wanted}
    return {
        "changed": bool(changes.files or lacks or unheld),
        "written": [str(file.path) for file, _before in changes.files],
        "installed": installed,
        "diff": [
            *changes.shown(),
            {
                "before": _listed(
                    {name: each.version for name, each in before.items()}, [n for n in before if before[n].is_held]
                ),
                "after": _listed(after, [*given["hold"], *(name for name in before if before[name].is_held)]),
            },
        ],
    }


def remove(module: AnsibleModule, wanted: dict[str, str]) -> dict[str, Any]:
    """Remove the packages; return the module's result. Raises NodeError."""
    before = status(list(wanted))
    if before and not module.check_mode:
        apt("purge", "--allow-change-held-packages", *sorted(before))
    return {
        "changed": bool(before),
        "written": [],
        "installed": [],
        "diff": {"before": _listed({name: each.version for name, each in before.items()}, []), "after": ""},
    }


def _listed(versions: dict[str, str], held: list[str]) -> str:
    return "".join(
        " ".join(filter(None, (name, version, "(held)" if name in held else ""))) + "\n"
        for name, version in sorted(versions.items())
    )


if __name__ == "__main__":
    main()
