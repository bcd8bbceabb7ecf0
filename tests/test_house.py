"""The house rules of DESIGN.md, read off the source: who imports whom, and how long a file may be."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("rfx", "envs", "train")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
ENTRIES = (
    "train/commands/train.py",
    "train/commands/evaluate.py",
    "train/commands/benchmark.py",
    "train/commands/play.py",
)  # run with python -m; the only ones that know Hydra
MAX_LINES = 300

TINYGRAD_ON_USE = (
    "rfx/observation/arrays.py",
    "rfx/loading/loaded_policy.py",
)  # for a tensor that the user hands in, or a policy that is no MLP

# What a folder must never import, at the top of a file or inside a function, and the files that are let off.
FORBIDDEN = (
    ("rfx", {"envs", "train", "gymnasium", "hydra", "omegaconf"}, ()),
    ("rfx", {"mujoco"}, ("rfx/drivers/sim.py", "rfx/drivers/mjcf.py", "rfx/check/")),
    ("rfx", {"cyclonedds"}, ("rfx/drivers/go2/",)),
    ("rfx", {"tinygrad"}, ("rfx/nn/", *TINYGRAD_ON_USE)),
    ("envs", {"train", "tinygrad", "hydra", "omegaconf"}, ()),
    ("train", {"hydra", "omegaconf"}, ENTRIES),
)
# What no file loads when it is imported, because it is an extra or slow, or both.
LATE = {
    "torch",
    "onnx",
    "onnxruntime",
    "huggingface_hub",
    "imageio_ffmpeg",
    "matplotlib",
    "tensorboardX",
    "stable_baselines3",
    "rsl_rl",
    "tensordict",
}
OF_AN_EXTRA = (
    "measure/race/sb3.py",
    "measure/race/rsl_rl.py",
)  # subclasses of what it brings; nothing imports them by name


@cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """Top-level packages that a file imports, each with whether that happens when the file itself is imported."""
    found = []

    def visit(node: ast.AST, at_import: bool) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            at_import = False
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name.split(".")[0], at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name, so that the rooms can be seen"
            found.append((node.module.split(".")[0], at_import))
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "importlib.import_module"
            and isinstance(node.args[0], ast.Constant)
        ):
            found.append((node.args[0].value.split(".")[0], at_import))
        for child in ast.iter_child_nodes(node):
            visit(child, at_import)

    visit(ast.parse(path.read_text()), True)
    return found


def test_the_rooms_are_there() -> None:
    assert len(FILES) > 30
    assert all((ROOT / room / "__init__.py").is_file() for room in ROOMS)


def test_imports_run_one_way() -> None:
    broken = [
        f"{name} imports {package}, which DESIGN.md forbids in {room}/"
        for room, forbidden, exempt in FORBIDDEN
        for name in NAMES
        if name.startswith(f"{room}/") and not (exempt and name.startswith(exempt))
        for package, _ in imports(ROOT / name)
        if package in forbidden
    ]
    assert not broken, "\n".join(broken)


def test_the_algorithm_knows_no_environment_and_no_robot() -> None:
    broken = [
        f"{path.relative_to(ROOT)} imports {line.strip()}"
        for path in (ROOT / "train" / "ppo").glob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith(("from envs", "import envs", "from rfx.drivers", "from train.tasks"))
    ]
    assert not broken, "\n".join(broken)


def test_no_robots_name_stands_in_envs_or_train() -> None:
    """A robot is data: what is written for one of them alone belongs into its files, or into its driver under rfx/robots."""
    names = [path.parent.name for path in (ROOT / "assets").glob("*/robot.yaml")]
    assert "go2" in names and len(names) > 5
    pattern = re.compile(rf"(?<![a-z0-9])({'|'.join(names)})(?![a-z0-9])", re.IGNORECASE)
    broken = [
        f"{path.relative_to(ROOT)}:{number} says {found[0]!r}"
        for room in ("envs", "train")
        for path in sorted((ROOT / room).rglob("*"))
        if path.suffix in (".py", ".c")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (found := pattern.search(line))
    ]
    assert not broken, "\n".join(broken)


def test_extras_are_imported_on_use() -> None:
    broken = [
        f"{name} imports {package} as soon as it is imported itself"
        for name in NAMES
        for package, at_import in imports(ROOT / name)
        if at_import
        and (package in LATE and name not in OF_AN_EXTRA or package == "tinygrad" and name in TINYGRAD_ON_USE)
    ]
    assert not broken, "\n".join(broken)


def test_a_file_is_read_in_one_sitting() -> None:
    broken = []
    for name in NAMES:
        lines = (ROOT / name).read_text().splitlines()
        if len(lines) > MAX_LINES and not any(" lines because " in line for line in lines[:12]):
            broken.append(
                f"{name} has {len(lines)} lines: split it, or say why in its first lines ('320 lines because ...')"
            )
    assert not broken, "\n".join(broken)


def test_the_checker_sees_what_it_must_see(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        "import importlib\nimport mujoco.batch\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import envs\n"
        "def f():\n    from torch.nn import Module\n    importlib.import_module('hydra.core')\n"
    )
    assert imports(path) == [
        ("importlib", True),
        ("mujoco", True),
        ("typing", True),
        ("torch", False),
        ("hydra", False),
    ]
