# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The files that make a host's isolated network: systemd-networkd's, nftables', and the units between.

Two layers keep runtimes apart, and each would do alone: the bridge does not pass frames between isolated ports
(systemd.network(5), ``Isolated=``), and the packet filter lets a tap send only as the runtime that it belongs to, and
only to the gateway and what the manifest allows. Each runtime has files of its own, so one comes or goes alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from .runtime_network import API_PORT, TAP_PREFIX, Guest, Network

NETWORKD = "/etc/systemd/network"
POLICY = "/etc/vllmd/network"
UNITS = "/etc/systemd/system"
POLICY_UNIT = "vllmd-network-policy.service"
TABLE = "vllmd_runtimes"
_HEAD = "# Written by role vllmd.platform.hypervisor; changes are overwritten.\n"
#: Runtimes require it, so it is reloaded and never restarted: that would restart them.
_POLICY_UNIT = f"""{_HEAD}[Unit]
Description=Packet filter between the runtimes of vllmd
Documentation=man:nft(8)
After=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f {POLICY}/policy.nft
ExecReload=/usr/sbin/nft -f {POLICY}/policy.nft

[Install]
WantedBy=multi-user.target
"""
#: Debian's nftables.service flushes every table, ours too, when it starts, reloads and stops.
_NFTABLES_DROP_IN = f"""{_HEAD}[Service]
ExecStartPost=/usr/sbin/nft -f {POLICY}/policy.nft
ExecReload=/usr/sbin/nft -f {POLICY}/policy.nft
ExecStopPost=/usr/sbin/nft -f {POLICY}/policy.nft
"""


def network_files(network: Network) -> dict[str, str]:
    """Return the network's own files, path to content."""
    files = {
        f"{NETWORKD}/50-vllmd-bridge.netdev": _bridge_netdev(network),
        f"{NETWORKD}/50-vllmd-bridge.network": _bridge_network(network),
        f"{POLICY}/policy.nft": policy(network),
        f"{UNITS}/{POLICY_UNIT}": _POLICY_UNIT,
        f"{UNITS}/nftables.service.d/50-vllmd.conf": _NFTABLES_DROP_IN,
    }
    if network.uplink:
        files["/etc/sysctl.d/50-vllmd-network.conf"] = (
            f"{_HEAD}# Only between these two; what may pass is for {POLICY}/policy.nft to say.\n"
            f"-net.ipv4.conf.{_sysctl(network.bridge)}.forwarding = 1\n"
            f"-net.ipv4.conf.{_sysctl(network.uplink)}.forwarding = 1\n"
        )
    return files


def guest_files(network: Network, guest: Guest, user: str) -> dict[str, str]:
    """Return the files of one runtime; ``user`` runs its virtual machine and may open the tap."""
    stem = f"{NETWORKD}/55-vllmd-{guest.name}"
    return {
        f"{stem}.netdev": (
            f"{_HEAD}[NetDev]\nName={guest.tap}\nKind=tap\n\n"
            f"# The launcher opens it as this user, without any capability.\n[Tap]\nUser={user}\nVNetHeader=yes\n"
        ),
        f"{stem}.network": (
            f"{_HEAD}[Match]\nName={guest.tap}\n\n"
            "[Link]\nRequiredForOnline=no\n\n"
            f"[Network]\nBridge={network.bridge}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
            "# A virtual machine that is off leaves no carrier, and keeps its place.\nConfigureWithoutCarrier=yes\n\n"
            "[Bridge]\nIsolated=yes\nHairPin=no\n"
        ),
        f"{POLICY}/runtimes/{guest.name}.nft": guest_policy(guest),
        f"{UNITS}/vllmd-hypervisor@{guest.name}.service.d/15-network.conf": unit_drop_in(guest),
    }


def policy(network: Network, includes: str = f"{POLICY}/runtimes") -> str:
    """Return the packet filter: everything that is not said is dropped. ``nft -f`` replaces it as a whole.

    Ours are two tables of our own, so another firewall of the host keeps its own rules, and may forbid more.
    """
    ports = [("tcp", network.gateway_tcp), ("udp", network.gateway_udp)]
    gateway = [f"ip daddr {network.gateway} {kind} dport {_set(each)} accept" for kind, each in ports if each]
    out = [f"ip daddr {_set(network.dns)} {kind} dport 53 accept" for kind in ("udp", "tcp") if network.dns]
    clients = [f"ip saddr {_set(network.clients)} tcp dport {API_PORT} accept"] if network.clients else []
    # Runtimes add to forwarded and to ways what spec.network.forward names; nothing comes that way without an uplink.
    only_uplink, masquerade = "accept", ""
    if network.uplink:
        # Not to another runtime by way of the gateway either, nor anywhere but through the uplink.
        out = [
            f'oifname != "{network.uplink}" counter drop',
            "ct state established,related accept",
            *out,
            "ip saddr vmap @runtimes",
        ]
        # What comes from the bridge is not turned back.
        only_uplink = f'iifname != "{network.uplink}" accept\n        fib daddr type != local accept'
        clients.append(f'iifname "{network.uplink}" ct status dnat jump ways')
        masquerade = (
            "\n    chain leave {\n        type nat hook postrouting priority srcnat; policy accept;\n"
            f'        ip saddr {network.subnet} oifname "{network.uplink}" masquerade\n    }}\n'
        )
    return f"""{_HEAD}
table bridge {TABLE}
delete table bridge {TABLE}
table inet {TABLE}
delete table inet {TABLE}

table bridge {TABLE} {{
    # Which tap may send from which addresses.
    set senders {{ type ifname . ether_addr . ipv4_addr; }}

    chain arrive {{
        type filter hook prerouting priority filter; policy accept;
        iifname "{TAP_PREFIX}*" jump sender
    }}

    chain sender {{
        ether type ip iifname . ether saddr . ip saddr @senders accept
        ether type arp iifname . ether saddr . arp saddr ip != @senders counter drop
        ether type arp iifname . arp saddr ether . arp saddr ip @senders accept
        counter drop
    }}

    # Isolated ports do not talk to each other in any case.
    chain between {{
        type filter hook forward priority filter; policy accept;
        iifname "{TAP_PREFIX}*" counter drop
        oifname "{TAP_PREFIX}*" counter drop
    }}
}}

table inet {TABLE} {{
    # What each runtime may reach beyond its gateway, by its address.
    map runtimes {{ type ipv4_addr : verdict; }}

    chain input {{
        type filter hook input priority filter; policy accept;
        iifname "{network.bridge}" jump gateway
    }}

    chain gateway {{
        ct state established,related accept
        ip daddr {network.gateway} icmp type echo-request accept
{_lines(gateway)}        counter drop
    }}

    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{network.bridge}" jump out
        oifname "{network.bridge}" jump in
    }}

    chain out {{
{_lines(out)}        counter drop
    }}

    chain in {{
        ct state established,related accept
{_lines(clients)}        counter drop
    }}

    chain forwarded {{
        type nat hook prerouting priority dstnat; policy accept;
        {only_uplink}
    }}

    chain ways {{
    }}
{masquerade}}}

include "{includes}/*.nft"
"""


def guest_policy(guest: Guest) -> str:
    """Return one runtime's part of the packet filter."""
    rules = [
        f"ip daddr {each.to} {kind} dport {_set(ports)} accept"
        for each in guest.allow
        for kind, ports in (("tcp", each.tcp), ("udp", each.udp))
        if ports
    ]
    ways = ""
    for way in guest.forward:
        at = f"ip daddr {way.address} " if way.address else ""
        ways += (
            f"add rule inet {TABLE} forwarded {at}tcp dport {way.port} dnat ip to {guest.address}:{way.guest_port}\n"
            f"add rule inet {TABLE} ways ip daddr {guest.address} tcp dport {way.guest_port} accept\n"
        )
    return (
        f'{_HEAD}add element bridge {TABLE} senders {{ "{guest.tap}" . {guest.mac} . {guest.address} }}\n'
        f"table inet {TABLE} {{\n    chain {guest.tap} {{\n{_lines(rules)}    }}\n}}\n{ways}"
        f"add element inet {TABLE} runtimes {{ {guest.address} : jump {guest.tap} }}\n"
    )


def unit_drop_in(guest: Guest) -> str:
    """Return what the runtime's unit needs: its tap, and the packet filter before it starts."""
    device = f"sys-subsystem-net-devices-{guest.tap}.device"
    return (
        f"{_HEAD}[Unit]\n# Without the packet filter it does not run.\n"
        f"Requires={POLICY_UNIT}\nWants={device}\nAfter={POLICY_UNIT} {device}\n\n"
        "[Service]\n# systemd-networkd made the tap for this unit's user; opening it takes no capability.\n"
        "CapabilityBoundingSet=\nAmbientCapabilities=\n"
    )


def _bridge_netdev(network: Network) -> str:
    return (
        f"{_HEAD}[NetDev]\nName={network.bridge}\nKind=bridge\n\n"
        "# No port leads outside, so there is no loop to look for, and nobody to ask who wants which group.\n"
        "[Bridge]\nSTP=no\nForwardDelaySec=0\nMulticastSnooping=no\n"
    )


def _bridge_network(network: Network) -> str:
    return (
        f"{_HEAD}[Match]\nName={network.bridge}\n\n[Link]\nRequiredForOnline=no\n\n"
        f"[Network]\nAddress={network.gateway}/{network.subnet.prefixlen}\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\nConfigureWithoutCarrier=yes\n"
    )


def _set(values: Iterable[object]) -> str:
    return "{ " + ", ".join(str(value) for value in values) + " }"


def _lines(rules: Iterable[str]) -> str:
    return "".join(f"        {rule}\n" for rule in rules)


def _sysctl(interface: str) -> str:
    """Return the interface as sysctl.d(5) wants it: a dot in a name is a slash there."""
    return interface.replace(".", "/")
