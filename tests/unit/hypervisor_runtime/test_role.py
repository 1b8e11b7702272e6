"""Role hypervisor's own files agree with each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).parents[3] / "roles/hypervisor"


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
