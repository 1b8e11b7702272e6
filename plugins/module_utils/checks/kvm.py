# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Can virtual machines run at native speed here, and may the runtimes' user start them?"""

from __future__ import annotations

from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import (
    FAIL,
    INFO,
    PASS,
    RISK,
    WARN,
    Outcome,
    check,
    unknown,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host

_NODE = "/dev/kvm"


@check(
    "kvm-works",
    "kvm",
    "KVM really makes virtual machines",
    why="/dev/kvm may exist and open where no guest can run, for example in a cloud without nested virtualization.",
    reference="Linux: Documentation/virt/kvm/api.rst, KVM_CREATE_VM and KVM_CREATE_VCPU",
)
def kvm_works(host: Host, policy: Policy) -> Outcome:
    """FAIL, or WARN when the policy only prefers KVM."""
    if host.kvm.works is None:
        return unknown("whether KVM works" + (f" ({host.kvm.trouble})" if host.kvm.trouble else ""))
    if host.kvm.works:
        return Outcome(PASS, f"KVM works, module {host.kvm.module or 'built in'}")
    status = FAIL if policy.kvm == "required" else WARN
    module = {"intel": "kvm_intel", "amd": "kvm_amd"}.get(host.cpu.vendor or "", "kvm")
    return Outcome(
        status,
        f"KVM does not work: {host.kvm.trouble or 'no reason known'}",
        f"modprobe {module}; journalctl -k | grep -i kvm says why it refuses",
    )


@check(
    "kvm-permissions",
    "kvm",
    "The runtimes' user may open /dev/kvm, and not everyone",
    why="Virtual machines run as an unprivileged user. One who cannot open /dev/kvm emulates; a node open to all "
    "lets every local user in.",
    reference="systemd: 50-udev-default.rules, kvm group",
)
def kvm_permissions(host: Host, policy: Policy) -> Outcome:
    """Look at owner, group and mode of /dev/kvm and at the group's members."""
    if host.kvm.works is False:
        return Outcome(INFO, "KVM does not work here, so nobody opens it")
    node = host.nodes.get(_NODE)
    if node is None:
        return unknown(_NODE)
    group = node.group or str(node.gid)
    evidence = f"mode {node.mode & 0o777:04o}, owner {node.owner or node.uid}, group {group}"
    if node.mode & 0o006:
        return Outcome(
            RISK,
            f"{evidence}: open to everybody",
            "chmod 0660 /dev/kvm, and remove the udev rule that gives it a wider MODE",
        )
    if node.mode & 0o060 != 0o060 or node.gid == 0:
        return Outcome(
            WARN, f"{evidence}: for root alone", "chgrp kvm /dev/kvm && chmod 0660 /dev/kvm && udevadm control --reload"
        )
    if policy.runtime_user in (node.owner, *host.kvm.group_members):
        return Outcome(PASS, f"{evidence}, {policy.runtime_user} is a member")
    return Outcome(INFO, f"{evidence}; user {policy.runtime_user} is not in it yet: role hypervisor adds it")


@check(
    "kvm-nested",
    "kvm",
    "Nested virtualization is as the policy wants it",
    why="Guests that start virtual machines need it; for all others it is code that only an attacker uses.",
    reference="Linux: Documentation/virt/kvm/x86/running-nested-guests.rst",
)
def kvm_nested(host: Host, policy: Policy) -> Outcome:
    """FAIL when nested is wanted and off; INFO when it is on and not wanted."""
    found = host.kvm.nested
    if found is None:
        return unknown("the kvm module's parameter nested")
    module = "kvm_amd" if host.cpu.vendor == "amd" else "kvm_intel"
    if policy.nested and not found:
        return Outcome(
            FAIL,
            "nested virtualization is off",
            f"echo 'options {module} nested=1' > /etc/modprobe.d/vllmd-nested.conf && modprobe -r {module} "
            f"&& modprobe {module}",
        )
    if found and not policy.nested:
        return Outcome(
            INFO,
            "nested virtualization is on, and the policy does not ask for it",
            f"echo 'options {module} nested=0' > /etc/modprobe.d/vllmd-nested.conf",
        )
    return Outcome(PASS, f"nested virtualization is {'on' if found else 'off'}, as the policy wants")


@check(
    "kvm-interrupts",
    "kvm",
    "Interrupts reach guests without an exit (APICv or AVIC)",
    why="Each interrupt of a passed-through device otherwise stops the guest; fast NICs and GPUs send many.",
    reference="Linux: Documentation/admin-guide/kernel-parameters.txt, kvm-amd.avic, kvm-intel.enable_apicv",
)
def kvm_interrupts(host: Host, _policy: Policy) -> Outcome:
    """INFO when it is off: correct, but slower."""
    found = host.kvm.interrupt_virtualization
    if found is None:
        return unknown("the kvm module's parameter enable_apicv or avic")
    if found:
        return Outcome(PASS, "in use")
    option = "kvm_amd avic=1" if host.cpu.vendor == "amd" else "kvm_intel enable_apicv=1"
    return Outcome(
        INFO,
        "not in use",
        f"echo 'options {option}' > /etc/modprobe.d/vllmd-apic.conf, then reboot; not every CPU has it",
    )
