"""What to command at every tick: stand up, follow the policy, lie down, or damp. It knows nothing of DDS, processes or clocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rfx.config import RobotConfig
from rfx.robots.go2.mailbox import Phase, Request
from rfx.robots.go2.safety import LYING, MOVING, SafetyLimits, Snapshot, limit_target, violation
from rfx.state import Array


@dataclass(frozen=True, kw_only=True)
class MotorTarget:
    """What the motors should do: positions (num_joints,) rad, and gains kp N m/rad, kd N m s/rad. Wanted velocity and torque are 0."""

    position: Array
    kp: Array
    kd: Array


class Controller:
    """Turns snapshots and the driver's requests into motor targets.

    It damps until asked to stand, follows the policy once it stands, lies down when that is over, and damps at once, for good, after the
    first violation of a safety rule.
    For limits.lead_s it hears no request: DDS drops what comes from a writer that the reader has not met yet, and a robot that meets
    this one late (80 ms are usual on a busy machine, 0.3 s were seen once) must not come into the middle of standing up.
    """

    def __init__(self, config: RobotConfig, limits: SafetyLimits):
        self.config, self.limits = config, limits
        self.phase, self.phase_since_s, self.reason = Phase.CONNECTING, 0.0, ""
        self._begun_s, self._tired_s = math.inf, -math.inf
        num = len(config.joints)
        self._zeros = np.zeros(num, np.float32)
        self._policy_gains = config.joint_array("kp"), config.joint_array("kd")
        self._stand_gains = self._zeros + np.float32(limits.stand_kp), self._zeros + np.float32(limits.stand_kd)
        self._start, self._sent, self._goal = (np.zeros(num, np.float32) for _ in range(3))  # of the motion in progress
        self._then: Array | None = None  # where it leads next
        self._motion_since_s = self._motion_s = self._last_s = 0.0
        self._step = 0

    def step(self, now: Snapshot, request: Request, policy_step: int) -> MotorTarget:
        """The command for this moment. policy_step numbers the target in the snapshot: a new number, a new target."""
        self._change_phase(now, request)
        elapsed_s, self._last_s = min(now.now_s - self._last_s, 0.01), now.now_s  # a pause must not become a jump
        if self.phase not in MOVING:
            return MotorTarget(position=self._zeros, kp=self._zeros, kd=self._zeros + np.float32(self.limits.damping_kd))
        if self.phase == Phase.POLICY and policy_step != self._step:
            self._step = policy_step
            self._move(now.now_s - elapsed_s, now.target, self.limits.interpolation_s)  # as if begun a tick ago: no tick is idle
        kp, kd = self._policy_gains if self.phase == Phase.POLICY else self._stand_gains
        done = min(1.0, (now.now_s - self._motion_since_s) / self._motion_s) if self._motion_s > 0.0 else 1.0
        wanted = self._start + np.float32(done) * (self._goal - self._start)
        self._sent = limit_target(wanted, self._sent, now.joint_position, now.joint_velocity, elapsed_s=elapsed_s, kp=kp, kd=kd,
                                  limits=self.limits, config=self.config)
        if done == 1.0:
            self._arrive(now)
        return MotorTarget(position=self._sent, kp=kp, kd=kd)

    def fail(self, now_s: float, reason: str) -> None:
        """Damp from now on, for good."""
        if self.phase != Phase.FAULT:
            self.reason = reason
            self._enter(Phase.FAULT, now_s)

    def _change_phase(self, now: Snapshot, request: Request) -> None:
        if self.phase == Phase.FAULT:
            return
        reason = violation(now, self.limits, self.config)
        if reason:
            self.fail(now.now_s, reason)
        elif self.phase == Phase.CONNECTING:
            if now.now_s - now.state_time_s > self.limits.state_timeout_s:  # a gap here is no harm: begin again
                self._begun_s = math.inf
            self._begun_s = min(self._begun_s, now.now_s)
            if now.now_s - self._begun_s >= self.limits.lead_s:
                self._enter(Phase.IDLE, now.now_s)
        elif request == Request.STAND and self.phase in (Phase.IDLE, Phase.POLICY, Phase.LYING_DOWN):
            fresh = self.phase in MOVING or now.now_s - now.state_time_s <= self.limits.state_timeout_s
            if fresh and now.request_time_s > self._tired_s:
                self._stand_up(now)
        elif request == Request.POLICY and self.phase == Phase.STANDING:
            self._enter(Phase.POLICY, now.now_s)
        elif request == Request.DAMP and self.phase != Phase.IDLE:
            self._enter(Phase.IDLE, now.now_s)
        elif request in (Request.IDLE, Request.CLOSE) and self.phase in (Phase.STANDING_UP, Phase.STANDING, Phase.POLICY):
            self._lie_down(now)
        elif self.phase == Phase.STANDING and now.now_s - self.phase_since_s > self.limits.stand_timeout_s:
            self._tired_s = now.now_s  # the request to stand that lies there has been obeyed
            self._lie_down(now)

    def _stand_up(self, now: Snapshot) -> None:
        if self.phase not in MOVING:
            self._sent = now.joint_position.copy()
        distance = float(np.abs(self.config.default_position - now.joint_position).max())
        self._move(now.now_s, self.config.default_position, max(self.limits.stand_s, distance / self.limits.stand_velocity_rad_s))
        self._enter(Phase.STANDING_UP, now.now_s)

    def _lie_down(self, now: Snapshot) -> None:
        """From a stride over the default pose, from the others straight down."""
        if self.phase == Phase.POLICY:
            self._move(now.now_s, self.config.default_position, self.limits.recover_s, then=LYING)
        else:
            self._move(now.now_s, LYING, self.limits.lie_s)
        self._enter(Phase.LYING_DOWN, now.now_s)

    def _arrive(self, now: Snapshot) -> None:
        """What comes after a motion that is done."""
        if self.phase == Phase.STANDING_UP:
            late = now.now_s - self._motion_since_s - self._motion_s > self.limits.settle_s
            error = np.abs(now.joint_position - self.config.default_position)
            worst = int(np.argmax(error))
            if error[worst] <= self.limits.stand_error_rad:
                if late or float(np.abs(now.joint_velocity).max()) < self.limits.rest_velocity_rad_s:
                    self._enter(Phase.STANDING, now.now_s)
            elif late:
                self.fail(now.now_s, f"it does not stand: {self.config.joint_names[worst]} is {error[worst]:.2f} rad from the default pose, "
                                     f"limit {self.limits.stand_error_rad:.2f} rad")
        elif self.phase == Phase.LYING_DOWN:
            if self._then is None:
                self._enter(Phase.IDLE, now.now_s)
            else:
                self._move(now.now_s, self._then, self.limits.lie_s)

    def _move(self, since_s: float, goal: Array, duration_s: float, then: Array | None = None) -> None:
        self._start, self._goal, self._then = self._sent, np.array(goal, np.float32), then
        self._motion_since_s, self._motion_s = since_s, duration_s

    def _enter(self, phase: Phase, now_s: float) -> None:
        self.phase, self.phase_since_s = phase, now_s
