"""The Unitree Go2's driver. cyclonedds (extra `go2`) is imported by the sender's process, when it connects.

messages, crc, idl, bus: what goes over the wire. remote, switcher: the robot's remote control and its own controller.
safety, controller: what may be commanded, and what is, as pure functions of a snapshot. mailbox, sender, driver: the process that
talks to the robot, the one that runs the policy, and the memory between them. log: the last seconds. emulator: a Go2 to test all this on.
"""

from rfx.drivers.go2.driver.driver import Go2
from rfx.drivers.go2.rules.safety import SafetyLimits

__all__ = ["Go2", "SafetyLimits"]
