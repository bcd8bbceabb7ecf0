"""`rfx deploy` in virtual time."""

from virtual_clock import VirtualClock

from rfx.commands.cli import _parser
from rfx.commands.deploy import deploy


def deploy_in_virtual_time(*arguments: str) -> None:
    """As from the command line, on a robot that needs no leading.

    Raises what the command line would tell in one line.
    """
    with VirtualClock() as clock:
        deploy(_parser().parse_args(["deploy", *arguments]), clock)
