"""Decides the command at every tick: stand up, follow the policy, lie down, or damp.

This module knows nothing of DDS, processes or clocks.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from rfx.drivers.go2.rules.mailbox import UNKNOWN, Phase, Request
from rfx.drivers.go2.rules.pose import LYING
from rfx.drivers.go2.rules.safety import MOVING, SafetyLimits, Snapshot, limit_target, violation
from rfx.drivers.go2.wire.remote import EMERGENCY
from rfx.robot.config import RobotConfig
from rfx.robot.state import Array


@dataclass(frozen=True, kw_only=True)
class MotorTarget:
    """Targets of the motors: positions (num_joints,) rad, and gains kp N m/rad, kd N m s/rad.

    Target velocity and torque are 0.
    """

    position: Array
    kp: Array
    kd: Array


class Controller:
    """Turns snapshots and the driver's requests into motor targets.

    It damps until it is asked to stand, follows the policy once it stands, lies down when asked, and damps for good
    after the first violation of a safety rule. After a fault without immediate danger (`end`) the robot first lies
    down, and then damps for good.
    It ignores requests for limits.lead_s. DDS drops messages from a writer that the reader has not met yet. A robot may
    meet this writer late (80 ms are usual on a busy machine, 0.3 s were seen once), and must not begin in the middle of
    standing up.
    """

    def __init__(self, config: RobotConfig, limits: SafetyLimits):
        self.config, self.limits = config, limits
        self.phase, self.phase_since_s, self.reason = Phase.CONNECTING, 0.0, ""
        self._begun_s = math.inf
        num = len(config.joints)
        self._zeros = np.zeros(num, np.float32)
        self._policy_gains = config.joint_array("kp"), config.joint_array("kd")
        self._stand_gains = self._zeros + np.float32(limits.stand_kp), self._zeros + np.float32(limits.stand_kd)
        self._start, self._sent, self._goal = (np.zeros(num, np.float32) for _ in range(3))  # the motion in progress
        self._motion_since_s = self._motion_s = self._last_s = 0.0
        self._next_goal: Array | None = None  # lying down may first go to the default pose
        self._step, self._step_times_s = 0, deque[float]()
        self._charged_s = 0.0  # last time when the battery was above least_charge

    def step(self, now: Snapshot, request: Request, policy_step: int) -> MotorTarget:
        """Return the command for this moment. A new policy_step means that the snapshot has a new target."""
        self._change_phase(now, request)
        elapsed_s, self._last_s = min(now.now_s - self._last_s, 0.01), now.now_s  # a pause must not become a jump
        if self.phase not in MOVING:
            return self.damping()
        if self.phase == Phase.POLICY and policy_step != self._step:
            self._step = policy_step
            # The motion starts a tick in the past, so that this tick already moves.
            self._move(now.now_s - elapsed_s, now.target, self.limits.interpolation_s)
            self._time_step(now.now_s)
        kp, kd = self._policy_gains if self.phase == Phase.POLICY else self._stand_gains
        done = min(1.0, (now.now_s - self._motion_since_s) / self._motion_s) if self._motion_s > 0.0 else 1.0
        wanted = self._start + np.float32(done) * (self._goal - self._start)
        self._sent = limit_target(
            wanted,
            self._sent,
            now.joint_position,
            now.joint_velocity,
            elapsed_s=elapsed_s,
            kp=kp,
            kd=kd,
            limits=self.limits,
            config=self.config,
        )
        if self.phase != Phase.POLICY and done == 1.0 and self._is_settled(now):
            self._arrive(now)
        return MotorTarget(position=self._sent, kp=kp, kd=kd) if self.phase in MOVING else self.damping()

    def damping(self) -> MotorTarget:
        """Return targets with which joints resist motion and hold nothing."""
        return MotorTarget(position=self._zeros, kp=self._zeros, kd=self._zeros + np.float32(self.limits.damping_kd))

    def fail(self, now_s: float, reason: str) -> None:
        """Damp from now on, for good."""
        if self.phase != Phase.FAULT:
            self.reason = reason
            self._enter(Phase.FAULT, now_s)

    def end(self, now_s: float, reason: str) -> None:
        """Lie down, then damp for good."""
        if not self.reason:
            self.reason = reason
            self._lie_down(now_s)

    def _change_phase(self, now: Snapshot, request: Request) -> None:
        if self.phase == Phase.FAULT:
            return
        if reason := violation(now, self.limits, self.config):
            self.fail(now.now_s, reason)  # also while the robot lies down: the fault replaces the reason for lying down
        elif self.phase == Phase.CONNECTING:
            self._begun_s = min(self._begun_s, now.now_s)
            if now.now_s - self._begun_s >= self.limits.lead_s:
                self._enter(Phase.IDLE, now.now_s)
                self._check_charge(now)
        elif request in (Request.IDLE, Request.CLOSE):
            if self.phase != Phase.IDLE:
                self._enter(Phase.IDLE, now.now_s)
        elif self.phase == Phase.LYING_DOWN:
            pass  # only damping interrupts lying down
        elif request == Request.LIE:
            if self.phase != Phase.IDLE:
                self._lie_down(now.now_s)
        elif request == Request.STAND and self.phase in (Phase.IDLE, Phase.POLICY):
            self._check_charge(now)
            if self.phase in (Phase.IDLE, Phase.POLICY) and self._may_stand(now):
                self._stand_up(now)
        elif request == Request.POLICY and self.phase == Phase.STANDING:
            self._step_times_s.clear()
            self._enter(Phase.POLICY, now.now_s)
        if self.phase in MOVING and self.phase != Phase.LYING_DOWN:
            self._end_when_due(now)

    def _check_charge(self, now: Snapshot) -> None:
        if self.phase == Phase.IDLE and UNKNOWN < now.battery < self.limits.stand_charge:
            self.fail(
                now.now_s, f"the battery is at {now.battery}%; standing up needs {self.limits.stand_charge}%: charge it"
            )

    def _may_stand(self, now: Snapshot) -> bool:
        """Whether LowState is recent and L2+B is not pressed; a damped robot need not meet either condition."""
        return now.now_s - now.state_time_s <= self.limits.state_timeout_s and now.buttons & EMERGENCY != EMERGENCY

    def _end_when_due(self, now: Snapshot) -> None:
        if not UNKNOWN < now.battery <= self.limits.least_charge:
            self._charged_s = now.now_s
        elif now.now_s - self._charged_s > self.limits.low_charge_s:
            self.end(now.now_s, f"the battery is at {now.battery}%: it lay down")
        if (
            self.phase == Phase.STANDING
            and now.now_s - max(self.phase_since_s, now.policy_time_s) > self.limits.stand_timeout_s
        ):
            self.end(now.now_s, f"it stood without a policy step for {self.limits.stand_timeout_s:.0f} s, and lay down")

    def _time_step(self, now_s: float) -> None:
        """Record a policy step; too few steps for a while mean that the policy's gait clock runs too slowly."""
        times, limits = self._step_times_s, self.limits
        times.append(now_s)
        while times[0] < now_s - limits.slow_policy_s:
            times.popleft()
        period_s, wanted_s = limits.slow_policy_s / len(times), 1.0 / self.config.control_freq_hz
        if (
            now_s - self.phase_since_s > limits.slow_policy_s + wanted_s
            and period_s > limits.slow_policy_factor * wanted_s
        ):
            self.end(
                now_s,
                f"a policy step took {period_s * 1e3:.0f} ms on average, its control period is {wanted_s * 1e3:.0f} ms: it lay down",
            )

    def _is_settled(self, now: Snapshot) -> bool:
        late = now.now_s - self._motion_since_s - self._motion_s > self.limits.settle_s
        return late or float(np.abs(now.joint_velocity).max()) < self.limits.rest_velocity_rad_s

    def _arrive(self, now: Snapshot) -> None:
        """Handle the end of a motion."""
        if self.phase == Phase.STANDING_UP:
            error = np.abs(now.joint_position - self.config.default_position)
            joint = int(np.argmax(error))
            if error[joint] <= self.limits.stand_error_rad:
                self._enter(Phase.STANDING, now.now_s)
            elif now.now_s - self._motion_since_s - self._motion_s > self.limits.settle_s:
                self.fail(
                    now.now_s,
                    f"it did not stand up: {self.config.joint_names[joint]} is {error[joint]:.2f} rad from the default pose, "
                    f"limit {self.limits.stand_error_rad:.2f} rad. Is a leg stuck, or a motor off?",
                )
        elif self.phase == Phase.LYING_DOWN:
            if self._next_goal is not None:
                goal, self._next_goal = self._next_goal, None
                self._move(now.now_s, goal, self.limits.lie_s)
            elif self.reason:
                self._enter(Phase.FAULT, now.now_s)
            else:
                self._enter(Phase.IDLE, now.now_s)

    def _stand_up(self, now: Snapshot) -> None:
        duration_s = self.limits.collect_s
        # After a walk, the motion starts from the last targets that were sent. Legs held at their measured positions
        # give way under the weight; 0.33 m/s were seen.
        if self.phase != Phase.POLICY:
            self._sent, duration_s = now.joint_position.copy(), self.limits.stand_s
        distance = float(np.abs(self.config.default_position - self._sent).max())
        self._move(
            now.now_s, self.config.default_position, max(duration_s, distance / self.limits.stand_velocity_rad_s)
        )
        self._enter(Phase.STANDING_UP, now.now_s)

    def _lie_down(self, now_s: float) -> None:
        if self.phase == Phase.STANDING_UP:  # the robot may not be up yet: lie down from its present pose
            self._next_goal = None
            self._move(now_s, LYING, self.limits.lie_s)
        else:
            self._next_goal = LYING
            self._move(
                now_s, self.config.default_position, self.limits.collect_s if self.phase == Phase.POLICY else 0.0
            )
        self._enter(Phase.LYING_DOWN, now_s)

    def _move(self, since_s: float, goal: Array, duration_s: float) -> None:
        self._start, self._goal = self._sent, np.array(goal, np.float32)
        self._motion_since_s, self._motion_s = since_s, duration_s

    def _enter(self, phase: Phase, now_s: float) -> None:
        self.phase, self.phase_since_s = phase, now_s
