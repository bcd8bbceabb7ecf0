"""The Unitree Go2's driver. cyclonedds (extra `go2`) is imported by the sender's process, when it connects.

wire: what goes over DDS. rules: what may be commanded, and what is, as functions of a snapshot; channel is what sender
and guard say to each other. sender: the process that talks to the robot, and the guard, which damps when the sender
cannot. driver: the process that runs the policy. emulator: a Go2 to test all this on. operator: deployment, preflight
and replay, which an operator starts.
"""
