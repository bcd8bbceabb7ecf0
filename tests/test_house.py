"""The house rules, read off the source: who imports whom, and how long a file may be. docs/house.md shows the house."""

import ast
import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("rfx", "envs", "train")
FILES = sorted(path for floor in (*FLOORS, "measure") for path in (ROOT / floor).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
MAX_LINES = 400

# From the cellar to the roof. A room imports from itself and from rooms above it in this list, never from below. After
# the colon stands
# what it may import from outside beside NumPy; "on use" is what no file may import at its top, because it is an extra,
# or slow.
ROOMS = """\
rfx.system:
rfx.settings: msgspec, yaml on use
rfx.observation: tinygrad on use, torch on use
rfx.robot: mujoco_menagerie on use
rfx.random:
rfx.policy: huggingface_hub on use, onnxruntime on use, safetensors on use
rfx.nn: tinygrad
rfx.loading: tinygrad on use
rfx.drivers: mujoco
rfx.export: onnx on use, yaml on use
rfx.check: mujoco, rich
rfx.drivers.go2.wire: cyclonedds
rfx.drivers.go2.rules:
rfx.drivers.go2.sender:
rfx.drivers.go2.driver:
rfx.drivers.go2.emulator:
rfx.drivers.go2.operator: matplotlib on use
rfx.commands: rich on use
envs.settings: yaml
envs.pictures: mujoco, imageio_ffmpeg on use, matplotlib on use, PIL on use
envs.legged: gymnasium, mujoco
envs.gym: gymnasium
envs.mujoco: gymnasium, mujoco
train.ppo: gymnasium, tinygrad
train.task: gymnasium, rich, yaml
train.judge: gymnasium, mujoco, rich, matplotlib on use
train.tasks: gymnasium
train.scale: ray on use
train.runs: rich, safetensors, tinygrad, tensorboardX on use, wandb on use
train.sweeps: rich, yaml, matplotlib on use, optuna on use, ray on use, sqlalchemy on use
train.bench: mujoco, onnx on use, onnxruntime on use, torch on use
train.commands: hydra, hydra_plugins, mujoco, omegaconf, rich
measure: gymnasium, mkdocs, pytest, rich, rsl_rl, safetensors, stable_baselines3, tensordict, torch, yaml, matplotlib on use, mutmut on use, ray on use
"""
LINES = [line.partition(":") for line in ROOMS.splitlines()]
RANK = {room: rank for rank, (room, _, _) in enumerate(LINES)}
OUTSIDE = {room: {"numpy", *filter(None, outside.strip().split(", "))} for room, _, outside in LINES}
OURS = (*FLOORS, "measure")


def room_of(module: str) -> str | None:
    """The innermost room that a module lies in; None for the root of a floor."""
    parts = module.split(".")
    return next((room for end in range(len(parts), 0, -1) if (room := ".".join(parts[:end])) in RANK), None)


@cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """Names that a file imports, dotted, each with whether that happens when the file itself is imported."""
    found = []

    def visit(node: ast.AST, at_import: bool) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            at_import = False
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            at_import = False
        if isinstance(node, ast.Import):
            found.extend((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by full name, so that the rooms can be seen"
            found.extend((f"{node.module}.{alias.name}", at_import) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            if isinstance(node.args[0], ast.Constant):
                found.append((node.args[0].value, at_import))
        for child in ast.iter_child_nodes(node):
            visit(child, at_import)

    visit(ast.parse(path.read_text()), True)
    return found


def test_the_page_shows_the_same_rooms_in_the_same_order() -> None:
    page = (ROOT / "docs" / "house.md").read_text()
    assert re.findall(r"^\| `([\w/]+)` \| \S", page, re.MULTILINE) == [room.replace(".", "/") for room in RANK]


def test_every_file_that_the_page_names_is_there() -> None:
    page = (ROOT / "docs" / "house.md").read_text()
    named = re.findall(r"`((?:rfx|envs|train|measure|configs|assets|tests)/[\w./]*)`", page)
    assert len(named) > 40 and not [name for name in named if not (ROOT / name).exists()]


def test_a_root_holds_no_code_but_its_init() -> None:
    for floor in FLOORS:
        assert {path.name for path in (ROOT / floor).glob("*.py")} <= {"__init__.py", "__main__.py"}


def test_every_file_lies_in_a_room_and_imports_from_rooms_above_it_in_the_list() -> None:
    broken = []
    for path, name in zip(FILES, NAMES):
        module = name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        room = room_of(module)
        if room is None:
            continue  # the root of a floor, which exports what is in its rooms
        for imported, _ in imports(path):
            if imported.split(".")[0] not in OURS:
                continue
            other = room_of(imported)
            if other is None and imported.startswith(tuple(f"{floor}." for floor in OURS)):
                continue  # a name that a root exports
            if other is not None and RANK[other] > RANK[room]:
                broken.append(f"{name} is in {room} and imports {imported}, of {other}, which is above it")
    assert not broken, "\n".join(broken)


def test_a_room_imports_from_outside_what_the_list_says() -> None:
    broken = []
    for path, name in zip(FILES, NAMES):
        room = room_of(name.removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
        if room is None:
            continue
        for imported, at_import in imports(path):
            package = imported.split(".")[0]
            if package in OURS or package in sys.stdlib_module_names or package in OUTSIDE[room]:
                continue
            if at_import or f"{package} on use" not in OUTSIDE[room]:
                broken.append(f"{name} imports {package}{' as soon as it is imported itself' if at_import else ''}")
    assert not broken, "\n".join(broken)


def test_no_robots_name_stands_in_envs_or_train() -> None:
    """A robot is data: what is written for one of them alone belongs into its files, or into its driver."""
    names = [path.parent.name for path in (ROOT / "assets").glob("*/robot.yaml")]
    assert "go2" in names and len(names) > 5
    pattern = re.compile(rf"(?<![a-z0-9])({'|'.join(names)})(?![a-z0-9])", re.IGNORECASE)
    broken = [
        f"{path.relative_to(ROOT)}:{number} says {found[0]!r}"
        for floor in ("envs", "train")
        for path in sorted((ROOT / floor).rglob("*"))
        if path.suffix in (".py", ".c")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (found := pattern.search(line))
    ]
    assert not broken, "\n".join(broken)


def test_a_file_is_read_in_one_sitting() -> None:
    broken = [
        f"{name} has {num} lines, more than {MAX_LINES}: split it by meaning"
        for path, name in zip(FILES, NAMES)
        if (num := len(path.read_text().splitlines())) > MAX_LINES
    ]
    assert not broken, "\n".join(broken)


def test_the_checker_sees_what_it_must_see(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        "import importlib\nimport mujoco.batch\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import envs\n"
        "def f():\n    from torch.nn import Module\n    importlib.import_module('hydra.core')\n"
    )
    assert imports(path) == [
        ("importlib", True),
        ("mujoco.batch", True),
        ("typing.TYPE_CHECKING", True),
        ("envs", False),
        ("torch.nn.Module", False),
        ("hydra.core", False),
    ]
    assert room_of("rfx.drivers.go2.wire.bus") == "rfx.drivers.go2.wire" and room_of("rfx.drivers.sim") == "rfx.drivers"
    assert room_of("rfx") is None
