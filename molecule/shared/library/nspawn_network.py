#!/usr/bin/python3
"""Make or remove the private network of one scenario run."""

from __future__ import annotations

import shutil
from pathlib import Path

from ansible.module_utils import nspawn_bed as bed
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: nspawn_network
short_description: Make or remove the private network of one scenario run
description:
  - A bridge with an address from 198.51.100.0/24, which RFC 5737 reserves for documentation, so it can be nobody's
    real network. Each run takes a free /28 of it; the kernel refuses a second bridge of the same name, which makes
    taking one atomic between runs. There is no route out of it.
options:
  name: {description: Name of the run; the record of what it holds lies under it., type: str, required: true}
  state: {description: Whether the network exists., type: str, choices: [present, absent], default: present}
"""

RETURN = r"""
slot: {description: Which /28 of the range the run holds., type: int, returned: state is present}
bridge: {description: Name of the bridge., type: str, returned: state is present}
"""


def claim() -> int:
    """Make the first bridge that does not exist yet, with its address; its slot."""
    for slot in range(bed.NETWORKS):
        name = bed.bridge_name(slot)
        if bed.run("ip", "link", "add", "name", name, "type", "bridge", check=False).returncode == 0:
            bed.run("ip", "address", "add", f"{bed.address(slot, 0)}/28", "dev", name)
            bed.run("ip", "link", "set", name, "up")
            return slot
    held = ", ".join(bed.bridge_name(slot) for slot in range(bed.NETWORKS))
    raise bed.BedError(
        f"all test networks are taken ({held}); destroy a scenario, or `ip link del` a bridge nobody uses"
    )


def exists(slot: int) -> bool:
    """Whether the bridge of `slot` is there."""
    return Path(f"/sys/class/net/{bed.bridge_name(slot)}").exists()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
    )
    state = bed.STATE_ROOT / f"{module.params['name']}.network"
    record_path = state / "network.json"
    slot = bed.read_record(record_path).get("slot")
    held = isinstance(slot, int) and exists(slot)
    try:
        if module.params["state"] == "absent":
            if held:
                bed.run("ip", "link", "delete", bed.bridge_name(slot))
            known = state.exists()
            shutil.rmtree(state, ignore_errors=True)
            bed.remove_state_root()
            module.exit_json(changed=held or known)
        if not held:
            state.mkdir(parents=True, exist_ok=True)
            slot = claim()
            bed.write_record(record_path, {"slot": slot})
    except bed.BedError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=not held, slot=slot, bridge=bed.bridge_name(slot))


if __name__ == "__main__":
    main()
