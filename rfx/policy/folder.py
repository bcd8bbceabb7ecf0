"""The policy folder: model.safetensors, rfx_config.json and, if the policy has a normalizer, normalizer.json.

Reading a policy folder runs no code from it.

rfx_config.json holds format, rfx_version, policy_type, arguments (of the constructor), robot_config, training_info and
files. files holds the SHA-256 of each of the other two files, so that weights and normalizers of different policies are
never mixed. If the policy's class is not part of rfx, module names the Python module that defines the class.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rfx
from rfx.policy import hub
from rfx.policy.normalizer import ObservationNormalizer
from rfx.robot.config import RobotConfig
from rfx.system.folders import replace_folder
from rfx.system.text import printable

WEIGHTS, CONFIG, NORMALIZER = "model.safetensors", "rfx_config.json", "normalizer.json"
FILES = [CONFIG, NORMALIZER, WEIGHTS]
POLICY = "policy"  # name of the policy folder inside the folder of a run
FORMAT = 2
MAX_JSON_BYTES = 16 * 2**20
MAX_HEADER_BYTES = 2**20  # of a safetensors file; room for about 10,000 tensors
DTYPES = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")  # NumPy has these


@dataclass(frozen=True, kw_only=True)
class PolicyInfo:
    """Everything that a policy folder holds except the weights, which stay on disk."""

    path: Path
    rfx_version: str
    policy_type: str
    # Python module that defines the policy's class; None if rfx defines the class, or if it is only registered
    module: str | None = None
    arguments: dict[str, Any]  # of the policy's constructor
    weight_shapes: dict[str, tuple[int, ...]]
    robot_config: RobotConfig | None
    normalizer: ObservationNormalizer | None
    training_info: dict[str, Any]
    digests: dict[str, str]  # SHA-256 of the other files

    def read_weights(self) -> dict[str, np.ndarray]:
        """The weights by name. Raises as the function `read_weights`, also for a file of another policy."""
        return read_weights(self.path / WEIGHTS, self.digests[WEIGHTS])


def inspect_policy(path: str | Path) -> PolicyInfo:
    """Read a policy folder without its weights. path may also be hf://owner/name, or an .onnx file that rfx exported.

    Raises FileNotFoundError for a missing folder or file, and ValueError that names a damaged file and its fault.
    """
    from rfx.policy.onnx_policy import inspect_onnx, is_onnx

    if is_onnx(path):
        return inspect_onnx(path)
    path = local_folder(path)
    data = read_bounded(path / CONFIG, MAX_JSON_BYTES)
    with naming(path / CONFIG):
        config = read_config(data, {"files": dict})
        if not isinstance(config.get("module"), str | None):
            raise ValueError(f"got {reprlib.repr(config['module'])} for 'module'; expected the name of a Python module")
    digests = config["files"]
    if not {WEIGHTS} <= digests.keys() <= {WEIGHTS, NORMALIZER}:
        raise ValueError(f"{path / CONFIG}: got files {sorted(digests)}; expected {WEIGHTS} and, at most, {NORMALIZER}")
    robot_config = normalizer = None
    if config["robot_config"] is not None:
        with naming(path / CONFIG):
            robot_config = RobotConfig.from_dict(config["robot_config"])
    if NORMALIZER in digests:
        data = read_bounded(path / NORMALIZER, MAX_JSON_BYTES)
        _check_digest(path / NORMALIZER, data, digests[NORMALIZER])
        with naming(path / NORMALIZER):
            normalizer = ObservationNormalizer.from_dict(_read_json(data))
    elif (path / NORMALIZER).exists():
        raise ValueError(
            f"{path / NORMALIZER} is there, but {CONFIG} knows of none: copy the whole folder again, or remove the file"
        )
    return PolicyInfo(
        path=path,
        rfx_version=config["rfx_version"],
        policy_type=config["policy_type"],
        module=config.get("module"),
        arguments=config["arguments"],
        weight_shapes=_weight_shapes(path / WEIGHTS),
        robot_config=robot_config,
        normalizer=normalizer,
        training_info=config["training_info"],
        digests=digests,
    )


def read_config(data: bytes, others: Mapping[str, Any]) -> dict[str, Any]:
    """Read and check the JSON description of a policy. others are further entries and their types.

    Raises ValueError for a missing entry, an entry of another type, or a format that this rfx does not read.
    """
    config = _read_json(data)
    expected = {
        "format": int,
        "rfx_version": str,
        "policy_type": str,
        "arguments": dict,
        "robot_config": dict | None,
        "training_info": dict,
        **others,
    }
    for key, kind in expected.items():
        if key not in config or not isinstance(config[key], kind):
            found = reprlib.repr(config[key]) if key in config else "nothing"
            raise ValueError(f"got {found} for {key!r}; expected {getattr(kind, '__name__', kind)}")
    if config["format"] != FORMAT:
        raise ValueError(
            f"got format {config['format']}; this rfx reads format {FORMAT}: install rfx "
            f"{printable(config['rfx_version'])}, which wrote it"
        )
    return config


def read_weights(path: str | Path, digest: str | None = None) -> dict[str, np.ndarray]:
    """The arrays in a safetensors file, by name.

    Raises FileNotFoundError for a missing file. Raises ValueError if the file is not a safetensors file, is cut short,
    has another SHA-256 than digest, or holds values that are not finite.
    """
    import safetensors.numpy

    path = Path(path)
    _weight_shapes(path)
    data = path.read_bytes()
    if digest is not None:
        _check_digest(path, data, digest)
    weights = safetensors.numpy.load(data)
    check_finite(weights, str(path))
    return weights


def write_policy(
    path: str | Path,
    *,
    policy_type: str,
    arguments: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    robot_config: RobotConfig | None,
    normalizer: ObservationNormalizer | None,
    training_info: Mapping[str, Any] | None,
    widths: tuple[int | None, int | None],
    module: str | None = None,
) -> Path:
    """Write a policy folder and return path.

    widths are the widths of observation and action; None stands for an unknown width. Raises as `Policy.save`.
    """
    import safetensors.numpy

    for value, kind in ((robot_config, RobotConfig), (normalizer, ObservationNormalizer), (training_info, Mapping)):
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"got {type(value).__name__}; expected {kind.__name__} or None")
    check_finite(weights, policy_type)
    check_widths(*widths, robot_config, normalizer)
    files = {WEIGHTS: safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in weights.items()})}
    if normalizer is not None:
        files[NORMALIZER] = _json_bytes(normalizer.to_dict())
    config = {
        "format": FORMAT,
        "rfx_version": rfx.__version__,
        "policy_type": policy_type,
        **({"module": module} if module else {}),
        "arguments": plain(arguments, f"arguments of {policy_type}", finite=True),
        "robot_config": None if robot_config is None else plain(robot_config.to_dict(), "robot_config"),
        "training_info": plain(training_info or {}, "training_info"),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    return replace_folder(path, {**files, CONFIG: _json_bytes(config)}, obsolete=(NORMALIZER,))


def push_policy(
    path: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    commit_message: str = "Policy saved by rfx",
    card: Mapping[str, bytes] | None = None,
) -> str:
    """Upload the policy folder at path to the Hugging Face repository owner/name, with the files of a model card.

    Returns the hf:// source of the new commit. Without card, an existing README.md in the repository stays. Raises
    ValueError for an incomplete or damaged folder, and otherwise as `hub.upload`.
    """
    hub.check_repo_id(repo_id)
    path = local_folder(path)
    info = inspect_policy(path)
    info.read_weights()
    files = {name: (path / name).read_bytes() for name in FILES if name == CONFIG or name in info.digests}
    return hub.upload(
        {**files, **(card or {})}, repo_id, replaced=FILES, private=private, commit_message=commit_message
    )


def check_widths(
    obs_dim: int | None, act_dim: int | None, robot_config: RobotConfig | None, normalizer: ObservationNormalizer | None
) -> None:
    """Raise ValueError unless robot_config and normalizer fit a policy of these widths; None is an unknown width."""
    if robot_config is not None:
        for width, real, padded in ((obs_dim, "state_dim", "max_state_dim"), (act_dim, "action_dim", "max_action_dim")):
            fitting = getattr(robot_config, real), getattr(robot_config, padded)
            if width is not None and width not in fitting:
                raise ValueError(
                    f"got a policy of width {width} for a robot_config of {real} {fitting[0]} ({padded} {fitting[1]})"
                )
        obs_dim = robot_config.state_dim
    if normalizer is not None and obs_dim is not None and normalizer.state_dim != obs_dim:
        raise ValueError(f"got a normalizer of state_dim {normalizer.state_dim}; expected {obs_dim}")


def check_finite(weights: Mapping[str, np.ndarray], where: str) -> None:
    """Raise ValueError if an array has values that are not finite; the error names the first such array."""
    for name, array in weights.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{where}: got values in {printable(name)} that are not finite; such a policy cannot run")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn a TypeError or ValueError about a file's content into a ValueError that begins with the file's path."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def plain(value: Any, where: str, *, finite: bool = False) -> Any:
    """Convert value to JSON types.

    NumPy arrays and numbers become lists and numbers, paths become text, and numbers that are not finite become null.
    With finite=True, a number that is not finite raises ValueError. Raises TypeError that names an entry that JSON
    cannot hold.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, float):
        if finite and not math.isfinite(value):
            raise ValueError(f"got {value} for {where}; expected a finite number")
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(entry, f"{where}[{key!r}]", finite=finite) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry, f"{where}[{index}]", finite=finite) for index, entry in enumerate(value)]
    raise TypeError(
        f"got {type(value).__name__} for {where}; expected what JSON holds: numbers, text, lists, dictionaries"
    )


def local_folder(source: str | Path) -> Path:
    """The local policy folder that source names.

    An hf:// source is fetched first with `hub.download`. The folder of a run means the policy folder inside it. Raises
    FileNotFoundError if there is no such folder.
    """
    if str(source).startswith(hub.SCHEME):
        return hub.download(str(source), (CONFIG, WEIGHTS), optional=(NORMALIZER,))
    path = Path(inside_run(source))
    if not path.is_dir():
        problem = "no folder" if path.exists() else "not there"
        raise FileNotFoundError(f"got {path}, which is {problem}; expected a policy folder with {CONFIG}")
    return path


def inside_run(source: str | Path) -> str:
    """The policy folder inside source if source is the folder of a run; otherwise source itself.

    People often give the folder of a run when a policy folder is asked for.
    """
    inside = Path(source) / POLICY
    return str(inside) if not (Path(source) / CONFIG).exists() and (inside / CONFIG).is_file() else str(source)


def _weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by name, from the file's header.

    Raises FileNotFoundError for a missing file, and ValueError unless the file fits its header exactly.
    """
    import safetensors

    _require_file(path)
    with open(path, "rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > min(MAX_HEADER_BYTES, path.stat().st_size):
        raise ValueError(
            f"{path}: got a header of {header_bytes} bytes in a file of {path.stat().st_size}; the file is damaged"
        )
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            dtypes = {name: part.get_dtype() for name, part in slices.items()}
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file: {error}") from error
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            raise ValueError(f"{path}: got {printable(name)} of type {dtype}; expected one of {', '.join(DTYPES)}")
    return shapes


def _check_digest(path: Path, data: bytes, digest: Any) -> None:
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(
            f"{path} is not the file that {CONFIG} was saved with; copy the whole folder again, or save the policy anew"
        )


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is {'no ordinary file' if path.exists() else 'missing'}; expected a policy saved by rfx there"
        )


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Read a file. Raises FileNotFoundError for no ordinary file, ValueError for more than max_bytes."""
    _require_file(path)
    if path.stat().st_size > max_bytes:
        raise ValueError(f"{path}: got {path.stat().st_size} bytes; expected at most {max_bytes}")
    return path.read_bytes()


def _read_json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a JSON file: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"got a {type(value).__name__}; expected a JSON object")
    return value


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()
