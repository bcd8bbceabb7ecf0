"""Optional dependencies: which extra installs which module, and the message that says how to install it."""

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
INCLUDED = {"train": ("sim",)}  # extras that another extra installs too


def install_command(extra: str) -> str:
    """The command that installs an extra. It installs from the checkout, because rfx on PyPI is another project."""
    return f"pip install -e '.[{extra}]'"


def missing(user: str, module: str) -> ModuleNotFoundError:
    """The error to raise if user, such as "plotting", needs a module that is not installed."""
    command = install_command(EXTRA_OF[module.partition(".")[0]])
    return ModuleNotFoundError(
        f"{user} needs {module.replace('_', '-')}, which is not installed: {command}", name=module
    )


def mend(error: BaseException, user: str = "this") -> str | None:
    """A one-line message for an import error that an extra fixes; None for any other error. user needs the module."""
    if not isinstance(error, ModuleNotFoundError) or not error.name or error.name.partition(".")[0] not in EXTRA_OF:
        return None
    return str(error if "pip install" in str(error) else missing(user, error.name))


def exit_without(extra: str, user: str) -> None:
    """End the process with one line and exit code 2 if modules of an extra are not installed.

    user is the command that needs them, such as `python -m train`.
    """
    lacking = [
        module
        for module, source in EXTRA_OF.items()
        if source in (extra, *INCLUDED.get(extra, ())) and importlib.util.find_spec(module) is None
    ]
    if lacking:
        print(f"error: {user} needs {', '.join(lacking)}, not installed: {install_command(extra)}", file=sys.stderr)
        raise SystemExit(2)
