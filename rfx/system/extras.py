"""What is installed apart: which extra brings which module, and the one sentence that says how to get it."""

from __future__ import annotations

import importlib.util
import sys

EXTRA_OF = {  # by top-level module
    "cyclonedds": "go2",
    "mujoco": "sim",
    "rich": "sim",
    "gymnasium": "train",
    "hydra": "train",
    "omegaconf": "train",
    "tensorboardX": "train",
    "tinygrad": "train",
    "glfw": "viz",
    "imageio_ffmpeg": "viz",
    "matplotlib": "viz",
    "OpenGL": "viz",
    "PIL": "viz",
    "tensorboard": "viz",
    "huggingface_hub": "hub",
    "mujoco_menagerie": "menagerie",
    "mutmut": "mutants",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "optuna": "search",
    "ray": "ray",
    "rsl_rl": "rivals",
    "stable_baselines3": "rivals",
    "submitit": "slurm",
    "torch": "torch",
    "wandb": "wandb",
}
INCLUDED = {"train": ("sim",)}  # extras that another brings along


def install_command(extra: str) -> str:
    """How to get an extra. It names no package: what PyPI has under the name rfx is somebody else's."""
    return f"pip install -e '.[{extra}]'"


def missing(user: str, module: str) -> ModuleNotFoundError:
    """The error to raise where user, such as "plotting", needs a module that is not installed."""
    command = install_command(EXTRA_OF[module.partition(".")[0]])
    return ModuleNotFoundError(
        f"{user} needs {module.replace('_', '-')}, which is not installed: {command}", name=module
    )


def mend(error: BaseException, user: str = "this") -> str | None:
    """One line for an error of import, in what user needs, that an extra mends; None for any other error."""
    if not isinstance(error, ModuleNotFoundError) or not error.name or error.name.partition(".")[0] not in EXTRA_OF:
        return None
    return str(error if "pip install" in str(error) else missing(user, error.name))


def exit_without(extra: str, user: str) -> None:
    """End the process with one line and exit code 2 where modules of an extra are not installed; user, as `python -m
    train`, needs them.
    """
    lacking = [
        module
        for module, source in EXTRA_OF.items()
        if source in (extra, *INCLUDED.get(extra, ())) and importlib.util.find_spec(module) is None
    ]
    if lacking:
        print(f"error: {user} needs {', '.join(lacking)}, not installed: {install_command(extra)}", file=sys.stderr)
        raise SystemExit(2)
