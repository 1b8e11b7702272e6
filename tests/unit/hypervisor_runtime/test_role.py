"""Role hypervisor's own files agree with each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).parents[3] / "roles/hypervisor"
DEFAULTS = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
VARS = yaml.safe_load((ROLE / "vars/main.yml").read_text())
WATCHED = {"health_url": "http://10.213.0.2:8000/health"}


def render(template: str, **variables: Any) -> str:
    """Render a template of the role as Ansible does."""
    text = trust_as_template((ROLE / "templates" / template).read_text())
    return str(Templar(DataLoader(), {"ansible_managed": "managed", **variables}).template(text))


def access(scope_system: bool = True, everywhere: dict[str, str] | None = None, **runtime: Any) -> set[str]:
    """The settings of a runtime's drop-in."""
    text = render(
        "access.conf.j2",
        runtime={"name": "one", "system_image": "/images/one.raw", **runtime},
        hypervisor_environment=everywhere or {},
        hypervisor_start_timeout=300,
        **{name: value for name, value in DEFAULTS.items() if name.startswith("hypervisor_health")},
        **{name: trust_as_template(VARS[name]) for name in ("__hypervisor_watched",)},
        __hypervisor_limits={name: trust_as_template(text) for name, text in VARS["__hypervisor_limits"].items()},
        __hypervisor_system=scope_system,
    )
    return {line for line in text.splitlines() if line and not line.startswith(("#", "["))}


def test_readme_names_every_field_of_a_runtime() -> None:
    options = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    readme = (ROLE / "README.md").read_text()
    assert [name for name in options["hypervisor_runtimes"]["options"] if f"`{name}`" not in readme] == []


@pytest.mark.parametrize(
    ("runtime", "settings"),
    [
        ({}, set()),
        (
            {"network": "mode=user,forward=127.0.0.1:8000:8000"},
            {"RestrictAddressFamilies=AF_INET AF_INET6", "PrivateNetwork=no", "IPAddressAllow=any"},
        ),
        (
            {"network": "mode=tap,tap=t0,bridge=br0"},
            {
                "RestrictAddressFamilies=AF_INET AF_NETLINK",
                "PrivateNetwork=no",
                "PrivateUsers=no",
                "CapabilityBoundingSet=CAP_NET_ADMIN",
                "AmbientCapabilities=CAP_NET_ADMIN",
                "DeviceAllow=/dev/net/tun rw",
                "DeviceAllow=/dev/vhost-net rw",
            },
        ),
        (
            {"devices": ["/dev/vfio/12", "0000:01:00.0"]},
            {"DeviceAllow=/dev/vfio/vfio rw", "DeviceAllow=/dev/vfio/12 rw", "DeviceAllow=char-vfio rw"},
        ),
        ({"system_image_readonly": False}, {"ReadWritePaths=/images/one.raw"}),
        ({"cache_image": "/runtimes/one/cache.raw"}, {"ReadWritePaths=/runtimes/one/cache.raw"}),
        ({"cache_image": "/dev/vg/cache"}, {"DeviceAllow=/dev/vg/cache rw"}),
        ({"environment": {"VLLMD_HYPERVISOR_ACCELERATION": "kvm"}}, {"MemoryDenyWriteExecute=yes"}),
        (WATCHED, {"TimeoutStartSec=1560", "WatchdogSec=240", "WatchdogSignal=SIGKILL"}),
        (
            WATCHED | {"health_timeout": 1200, "health_silence": 10},
            {"TimeoutStartSec=1860", "WatchdogSec=60", "WatchdogSignal=SIGKILL"},
        ),
        (WATCHED | {"health_watch": False}, set()),
    ],
)
def test_a_drop_in_opens_what_the_configuration_names(runtime: dict[str, Any], settings: set[str]) -> None:
    assert access(**runtime) == settings


def test_a_runtimes_own_environment_wins_in_the_drop_in_too() -> None:
    everywhere = {"VLLMD_HYPERVISOR_BACKEND": "cloud-hypervisor"}
    assert access(everywhere=everywhere) == {"MemoryDenyWriteExecute=yes"}
    assert access(everywhere=everywhere, environment={"VLLMD_HYPERVISOR_BACKEND": "qemu"}) == set()


def test_in_user_scope_a_drop_in_asks_for_nothing_only_root_can_give() -> None:
    assert access(scope_system=False, network="mode=user") == {"RestrictAddressFamilies=AF_INET AF_INET6"}
    assert access(scope_system=False, devices=["/dev/vfio/1"]) == set()


def test_a_watched_runtime_on_a_tap_may_be_asked_and_nobody_else() -> None:
    settings = access(network="mode=tap,tap=t0,bridge=br0", **WATCHED)
    assert {each for each in settings if each.startswith("IPAddress")} == {"IPAddressAllow=10.213.0.2"}
    assert not [each for each in access(scope_system=False, network="mode=tap", **WATCHED) if "IPAddress" in each]


@pytest.mark.parametrize(
    ("version", "settings"),
    [
        ("systemd 252 (252.39-1~deb12u2)\n+PAM", {"StartLimitIntervalSec=300", "StartLimitBurst=5"}),
        ("systemd 254", {"StartLimitIntervalSec=0", "RestartSteps=6", "RestartMaxDelaySec=60"}),
        ("systemd 257 (257.8-1)\n+PAM", {"StartLimitIntervalSec=0", "RestartSteps=6", "RestartMaxDelaySec=60"}),
        ("", {"StartLimitIntervalSec=300", "StartLimitBurst=5"}),
    ],
)
def test_a_unit_backs_off_where_systemd_can(version: str, settings: set[str]) -> None:
    text = render(
        "vllmd-hypervisor@.service.j2",
        __hypervisor_system=True,
        __hypervisor_at=VARS["__hypervisor_places"]["system"],
        __hypervisor_backs_off=trust_as_template(VARS["__hypervisor_backs_off"]),
        __hypervisor_systemd_version={"stdout": version},
        **{name: value for name, value in DEFAULTS.items() if name != "hypervisor_state"},
    )
    assert {
        line for line in text.splitlines() if line.startswith(("StartLimit", "RestartS", "RestartM"))
    } == settings | {"RestartSec=5"}
