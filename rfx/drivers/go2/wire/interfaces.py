"""This computer's network interfaces, and which of them leads to a Go2."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

ROBOT_NETWORK = ipaddress.ip_network("192.168.123.0/24")  # the robot is .161 on its Ethernet
ROBOT_ADDRESS = "192.168.123.161"
SYSTEM = Path("/sys/class/net")
SIOCGIFADDR = 0x8915  # Linux: an interface's IPv4 address


@dataclass(frozen=True, kw_only=True)
class Interface:
    """A network interface: its name, IPv4 address (or None), whether it is up, and its kind."""

    name: str
    address: str | None
    is_up: bool
    kind: str  # "wired", "wireless", "loopback"

    @property
    def leads_to_robot(self) -> bool:
        """Whether its address is in the robot's network."""
        return self.address is not None and ipaddress.ip_address(self.address) in ROBOT_NETWORK

    def describe(self) -> str:
        """Describe in one line what the interface is good for or what it lacks."""
        if self.kind == "loopback":
            note = "for simulators on this computer"
        elif self.leads_to_robot:
            note = (
                "leads to the robot" if self.kind == "wired" else "of the robot's network, but wireless: use the cable"
            )
        elif self.kind == "wired":
            note = f"has no address of the robot's network: give it one, such as ip addr add 192.168.123.222/24 dev {self.name}"
        else:
            note = "not the robot's cable"
        return (
            f"{self.name:12} {self.address or 'no address':16} {'up' if self.is_up else 'down':5} {self.kind:9} {note}"
        )


def interfaces() -> list[Interface]:
    """List the interfaces of this computer; those that lead to the robot come first."""
    found = [
        Interface(
            name=name, address=_address(name), is_up=_read(name, "operstate") in ("up", "unknown"), kind=_kind(name)
        )
        for _, name in socket.if_nameindex()
    ]
    return sorted(
        found,
        key=lambda interface: (
            not (interface.leads_to_robot and interface.kind == "wired"),
            interface.kind,
            interface.name,
        ),
    )


def robot_interface() -> str:
    """Return the name of the one wired interface that leads to the robot.

    Raises ValueError with a list of all interfaces if there is none or more than one.
    """
    all_of_them = interfaces()
    likely = [interface.name for interface in all_of_them if interface.leads_to_robot and interface.kind == "wired"]
    if len(likely) == 1:
        return likely[0]
    found = "; ".join(
        f"{interface.name} ({interface.kind}, {interface.address or 'no address'})" for interface in all_of_them
    )
    raise ValueError(
        f"got no --interface, and {len(likely) or 'none'} of this computer's leads to a robot (192.168.123.x): {found}. "
        "Say which one, as `rfx interfaces` lists them; --interface lo is for a simulator"
    )


def _address(name: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])


def _kind(name: str) -> str:
    if _read(name, "type") == "772":  # ARPHRD_LOOPBACK
        return "loopback"
    return "wireless" if (SYSTEM / name / "wireless").exists() or (SYSTEM / name / "phy80211").exists() else "wired"


def _read(name: str, attribute: str) -> str:
    try:
        return (SYSTEM / name / attribute).read_text().strip()
    except OSError:
        return ""
