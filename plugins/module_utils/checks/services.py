# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Are the services that the roles build on there: systemd, control groups, packages, a clock that is right?"""

from __future__ import annotations

import re

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import join
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import (
    FAIL,
    PASS,
    SKIP,
    WARN,
    Outcome,
    check,
    unknown,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host

_OLDEST_SYSTEMD = 252  # Debian 12's
_CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")


@check(
    "systemd",
    "system",
    "systemd runs the host",
    why="Runtimes are units: they are confined, restarted and started at boot by systemd. Without it the role "
    "starts them detached.",
    reference="roles/hypervisor/README.md, Where systemd does not run",
)
def systemd(host: Host, _policy: Policy) -> Outcome:
    """WARN when PID 1 is something else."""
    if host.system.init is None:
        return unknown("/proc/1")
    if host.system.init == "systemd":
        return Outcome(PASS, "PID 1 is systemd")
    return Outcome(
        WARN,
        f"PID 1 is {host.system.init}: nothing starts a runtime again after a crash or a boot",
        "use a host that boots with systemd",
    )


@check(
    "systemd-version",
    "system",
    "systemd is recent enough",
    why="The units' confinement uses settings of systemd 252; older ones ignore them without an error.",
    reference="systemd NEWS, 252",
)
def systemd_version(host: Host, _policy: Policy) -> Outcome:
    """WARN below 252."""
    if host.packages.manager is None:
        return unknown("the list of installed packages")
    version = host.packages.installed.get("systemd")
    match = re.match(r"(?:\d+:)?(\d+)", version or "")
    if not match:
        return Outcome(SKIP, "systemd's version is not among the packages")
    if int(match[1]) >= _OLDEST_SYSTEMD:
        return Outcome(PASS, f"systemd {version}")
    return Outcome(WARN, f"systemd {version}, wanted at least {_OLDEST_SYSTEMD}", "upgrade to Debian 12 or later")


@check(
    "cgroups",
    "system",
    "Control groups are unified and complete",
    why="Limits of a runtime's CPU, memory and processes need the controllers of cgroup v2; Kubernetes wants the same.",
    reference="Linux: Documentation/admin-guide/cgroup-v2.rst",
)
def cgroups(host: Host, _policy: Policy) -> Outcome:
    """WARN for another layout or a missing controller."""
    found = host.cgroups
    if found.layout is None:
        return unknown("/sys/fs/cgroup")
    if found.layout != "unified":
        return Outcome(
            WARN,
            f"layout {found.layout}",
            "remove systemd.unified_cgroup_hierarchy=0 from the kernel command line, then reboot",
        )
    missing = [name for name in _CONTROLLERS if name not in found.controllers]
    if missing:
        return Outcome(
            WARN,
            f"missing controllers: {join(missing)}",
            "remove cgroup_disable= from the kernel command line, then reboot",
        )
    return Outcome(PASS, f"unified, {join(found.controllers)}")


@check(
    "time-sync",
    "system",
    "The clock is synchronised",
    why="Certificates, tokens and audit records are judged by time; a host that joins with a wrong clock is "
    "refused or, worse, believed.",
    reference="timedatectl(1); chrony.conf(5)",
)
def time_sync(host: Host, _policy: Policy) -> Outcome:
    """WARN when no daemon runs or the clock is not synchronised."""
    time = host.time
    remedy = "apt-get install chrony && systemctl enable --now chrony"
    if time.is_synchronized is None and time.daemon is None:
        if not host.processes.scanned:
            return unknown("the clock's state")
        return Outcome(WARN, "no time synchronisation runs", remedy)
    if time.is_synchronized:
        return Outcome(PASS, f"synchronised{f' by {time.daemon}' if time.daemon else ''}")
    if time.is_synchronized is False:
        running = f"{time.daemon} runs, but " if time.daemon else ""
        return Outcome(
            WARN,
            f"{running}the clock is not synchronised",
            "timedatectl timesync-status or chronyc tracking says why" if time.daemon else remedy,
        )
    return Outcome(PASS, f"{time.daemon} runs; whether it has synchronised is not known")


@check(
    "packages-configured",
    "system",
    "No package is half installed",
    why="A broken dpkg state makes every later installation fail, in the middle of a role.",
    reference="dpkg(1), package states",
)
def packages_configured(host: Host, _policy: Policy) -> Outcome:
    """FAIL that lists half-installed packages."""
    if host.packages.manager is None:
        return unknown("the package manager")
    if not host.packages.half_installed:
        return Outcome(PASS, f"{host.packages.count} packages installed" if host.packages.count else "none")
    return Outcome(FAIL, join(host.packages.half_installed), "dpkg --configure -a && apt-get -f install")


@check(
    "packages-required",
    "system",
    "Packages that the policy names are installed",
    why="A site's own requirements (a monitoring agent, a firmware tool) are part of being ready.",
    reference="policy key packages",
)
def packages_required(host: Host, policy: Policy) -> Outcome:
    """FAIL for one that is missing."""
    if not policy.packages:
        return Outcome(PASS, "the policy names none")
    if host.packages.manager is None:
        return unknown("the list of installed packages")
    missing = [name for name in policy.packages if name not in host.packages.installed]
    if not missing:
        return Outcome(PASS, join(policy.packages))
    return Outcome(FAIL, f"missing: {join(missing)}", f"apt-get install {' '.join(missing)}")


@check(
    "process-limit",
    "system",
    "There may be enough processes",
    why="Every virtual CPU and every worker of an engine is a thread; a host with a limit of 32768 runs out with "
    "a dozen large guests.",
    reference="Linux: Documentation/admin-guide/sysctl/kernel.rst, pid_max",
)
def process_limit(host: Host, _policy: Policy) -> Outcome:
    """WARN for the old default on hosts with many CPUs."""
    found, cpus = host.limits.pid_max, len(host.cpu.online)
    if found is None or not cpus:
        return unknown("/proc/sys/kernel/pid_max or the number of CPUs")
    wanted = max(32768, 1024 * cpus)
    if found >= wanted:
        return Outcome(PASS, f"kernel.pid_max={found}, {cpus} CPUs")
    return Outcome(
        WARN,
        f"kernel.pid_max={found}, {cpus} CPUs want {wanted}",
        f"echo 'kernel.pid_max={wanted}' > /etc/sysctl.d/90-vllmd-pid.conf && sysctl --system",
    )
