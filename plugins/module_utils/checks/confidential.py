# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Is the processor able to keep guests from the host itself (SEV-SNP, TDX)?"""

from __future__ import annotations

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import join
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import (
    FAIL,
    INFO,
    PASS,
    SKIP,
    Outcome,
    check,
    unknown,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host

_SNP = (
    "enable SEV-SNP, SMEE and RMP coverage in the firmware setup, then: echo 'options kvm_amd sev_snp=1' > "
    "/etc/modprobe.d/vllmd-snp.conf && systemctl reboot"
)
_TDX = (
    "enable TME-MT and TDX with a SEAM loader in the firmware setup, then: echo 'options kvm_intel tdx=1' > "
    "/etc/modprobe.d/vllmd-tdx.conf && systemctl reboot"
)


@check(
    "confidential-computing",
    "confidential",
    "Confidential guests work as far as the policy asks",
    why="Memory encryption keeps a guest's data from the host's administrator; it must be on in firmware, kernel "
    "and kvm alike.",
    reference="Linux: Documentation/virt/kvm/x86/amd-memory-encryption.rst, Documentation/arch/x86/tdx.rst",
)
def confidential_computing(host: Host, policy: Policy) -> Outcome:
    """FAIL when the policy's kind is not offered."""
    offered = {"sev-snp": host.confidential.sev_snp, "tdx": host.confidential.tdx}
    on = [name for name, value in offered.items() if value]
    flags = f"CPU flags {join(host.confidential.flags)}" if host.confidential.flags else "no such CPU flag"
    if policy.confidential == "off":
        return Outcome(INFO, f"{join(on) or 'neither SEV-SNP nor TDX'} offered ({flags}); the policy asks for none")
    wanted = list(offered) if policy.confidential == "any" else [policy.confidential]
    if any(offered[name] for name in wanted):
        return Outcome(PASS, f"{join(on)} offered")
    if host.cpu.vendor is None:
        return unknown("the CPU's vendor")
    remedy = _TDX if host.cpu.vendor == "intel" else _SNP
    return Outcome(FAIL, f"{' or '.join(wanted)} not offered by kvm ({flags})", remedy)


@check(
    "confidential-iommu",
    "confidential",
    "The IOMMU's mode allows confidential guests",
    why="SEV-SNP refuses to start while the IOMMU is in passthrough mode: devices would bypass the table that "
    "owns each page.",
    reference="Linux: drivers/iommu/amd/init.c, iommu_snp_enable",
)
def confidential_iommu(host: Host, policy: Policy) -> Outcome:
    """FAIL for iommu=pt when SEV-SNP is wanted on an AMD host."""
    if policy.confidential not in ("any", "sev-snp") or host.cpu.vendor != "amd":
        return Outcome(SKIP, "the policy does not ask for SEV-SNP, or this is no AMD processor")
    if host.boot.cmdline is None:
        return unknown("/proc/cmdline")
    if host.boot.parameter("iommu") == "pt" or host.boot.parameter("iommu.passthrough") == "1":
        return Outcome(
            FAIL,
            "the kernel command line asks for passthrough domains",
            "remove iommu=pt and iommu.passthrough=1 from the kernel command line, then reboot",
        )
    return Outcome(PASS, "no passthrough mode on the kernel command line")
