"""rfx: robots and the policies that run them. Names load on first use, so that `import rfx` stays quick.

To export a name, add it to EXPORTS under the module that defines it.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

EXPORTS = {
    "rfx.robot.config": ("CameraConfig", "FootConfig", "JointConfig", "RobotConfig"),
    "rfx.loading.loaded_policy": ("LoadedPolicy", "load_policy"),
    "rfx.policy.normalizer": ("ObservationNormalizer",),
    "rfx.observation": ("ObservationBuffer", "ObservationSpec", "make_observation", "unpad_action"),
    "rfx.policy.folder": ("PolicyInfo", "inspect_policy", "push_policy"),
    "rfx.robot.files": ("load_robot",),
    "rfx.drivers.go2.driver.driver": ("Go2",),
    "rfx.drivers.go2.rules.config": ("GO2_CONFIG",),
    "rfx.drivers.mock": ("MockRobot",),
    "rfx.drivers.robot": ("Robot", "make_robot", "register_driver"),
    "rfx.drivers.sim": ("SimRobot",),
    "rfx.drivers.session": ("Session", "SessionStats", "run"),
}

_MODULE_OF = {name: module for module, names in EXPORTS.items() for name in names}
__all__ = [*_MODULE_OF, "__version__"]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'rfx' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    except ModuleNotFoundError as error:
        from rfx.system.extras import mend

        if (sentence := mend(error, f"rfx.{name}")) is None:
            raise
        raise ModuleNotFoundError(sentence, name=error.name) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
