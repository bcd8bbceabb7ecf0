"""The Unitree Go2's driver. The sender's process imports cyclonedds (extra `go2`) when it connects.

wire: the messages on DDS.
rules: which commands are allowed, and which command to send, as functions of a snapshot. Its module channel connects
sender and guard.
sender: the process that talks to the robot, and the guard, which damps when the sender cannot.
driver: the process that runs the policy.
emulator: a Go2 for tests of all this.
operator: deployment, preflight and replay, which an operator starts.
"""
