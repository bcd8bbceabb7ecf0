"""The wheel: it holds every file that is read at run time, and works from any folder without the checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("rfx", "envs", "train", "configs", "assets", "hydra_plugins")
READ_AT_RUN_TIME = {".py", ".yaml", ".xml", ".c", ".typed"}
TINY = [
    "+robot=go2",
    "env.num_envs=16",
    "trainer.rollout_steps=8",
    "ppo.num_epochs=1",
    "ppo.num_minibatches=2",
    "policy.hidden=[16]",
    "trainer.total_steps=128",
    "trainer.evaluation_envs=4",
    "trainer.evaluation_s=1",
    "trainer.final_evaluation_envs=4",
    "trainer.final_evaluation_s=1",
    "hydra.run.dir=run",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that the checkout stays as it is."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ROOMS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = target.glob("rfx_legged-*.whl")
    return path


def test_the_wheel_holds_every_file_that_is_read_at_run_time(wheel: Path) -> None:
    expected = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.suffix in READ_AT_RUN_TIME and "__pycache__" not in path.parts
    }
    assert {"configs/train.yaml", "configs/robot/go2.yaml", "assets/go2/go2.xml", "rfx/py.typed"} < expected
    assert expected <= set(zipfile.ZipFile(wheel).namelist())


def test_the_unpacked_wheel_trains_and_evaluates_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    library, elsewhere = tmp_path / "library", tmp_path / "elsewhere"
    elsewhere.mkdir()
    zipfile.ZipFile(wheel).extractall(library)
    environment = {**os.environ, "PYTHONPATH": str(library)}  # comes before the checkout, where that is installed

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = python(
        "-c",
        "import envs, rfx, train; from envs.settings.configs import CONFIGS; print(rfx.__file__, envs.__file__, train.__file__, CONFIGS)",
    )
    assert all(path.startswith(str(library)) for path in where.split())
    python("-m", "train", *TINY)
    assert "falls" in python("-m", "train.evaluate", "policy=run/policy", "num_envs=4", "duration_s=2")
    assert sorted(path.name for path in elsewhere.iterdir()) == ["run"]


def test_a_users_own_terms_train_and_go_on_beside_folders_that_are_called_as_ours(wheel: Path, tmp_path: Path) -> None:
    """Terms, a robot that observes one, a task and Ray's workers: in their folder, and gone on with in another one."""
    library, project, elsewhere = (tmp_path / name for name in ("library", "project", "elsewhere"))
    zipfile.ZipFile(wheel).extractall(library)
    elsewhere.mkdir()
    for name in ("train", "envs", "configs", "assets"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text(f"raise SystemExit('the wrong {name}')\n")
    for name in ("foreign_task", "point_task"):
        shutil.copy(ROOT / "tests" / f"{name}.py", project)
    shutil.copy(ROOT / "tests" / "foreign_terms.py", project / "my_terms.py")
    robot = yaml.safe_load((library / "assets" / "go2" / "robot.yaml").read_text())
    robot |= {
        "observation_terms": [*robot["observation_terms"], "my_terms:joint_speed"],
        "mjcf": str(library / "assets" / "go2" / "go2.xml"),
    }
    (project / "dog").mkdir()
    (project / "dog" / "robot.yaml").write_text(yaml.safe_dump(robot))
    environment = {**os.environ, "PYTHONPATH": str(library)}

    def python(*arguments: str, folder: Path = project, code: int = 0) -> str:
        command = [
            sys.executable,
            "-P",
            *arguments,
        ]  # -P: no working directory before what is installed, as with a script
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def record(name: str) -> dict:
        return json.loads((project / name / "run.json").read_text())

    own = [
        "+robot=dog",
        *TINY[1:-1],
        "+env.resets.crouched={term: my_terms:crouched}",
        "+env.rewards.spin={term: my_terms:spin, weight: -1}",
        "+env.randomization.heavy={term: my_terms:heavy, scale: [0.9, 1.1]}",
        "+env.terminations.over={term: my_terms:upside_down}",
        "policy.critic=privileged",
        "policy.critic_terms=[observation,my_terms:acceleration]",
    ]
    python("-m", "train", *own, "hydra.run.dir=alone")
    python("-m", "train", *own, "hydra.run.dir=scaled", "+scale=ray", "scale.workers=2")
    assert {*record("alone")["modules"]} == {"my_terms"} and (project / "alone" / "modules" / "my_terms.py").is_file()
    assert record("alone")["fingerprint"] == record("scaled")["fingerprint"]
    run = str(project / "alone")
    said = python("-m", "rfx.commands.cli", "deploy", f"{run}/policy", folder=elsewhere, code=1)
    assert "needs my_terms:joint_speed" in said  # loading a policy runs nothing of a run's
    python("-m", "rfx.commands.cli", "deploy", f"{run}/policy", "--duration", "0.2")
    assert "the same bits" in python("-m", "train.verify", run, folder=elsewhere)
    said = python("-m", "train.evaluate", f"policy={run}/policy", "num_envs=4", "duration_s=2", folder=elsewhere)
    assert "falls" in said
    python("-m", "train", f"resume={run}", "trainer.total_steps=256", folder=elsewhere)
    assert record("alone")["steps"] == 256 and record("alone")["finished"]
    small = ["+env.num_envs=16", *(f"+{key}" for key in TINY[2:7])]
    python("-m", "train", "task=foreign_task:PointTask", *small, "hydra.run.dir=points")
    assert {*record("points")["modules"]} == {"foreign_task"} and record("points")["finished"]
    assert (project / "points" / "modules" / "point_task.py").is_file()  # which it imports


@pytest.mark.long
def test_the_wheel_installed_in_a_fresh_environment_trains(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "XDG_CACHE_HOME": str(tmp_path / "cache")
    }
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[train]"], check=True, env=environment)
    done = subprocess.run([python, "-m", "train", *TINY], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(
        [tmp_path / "venv" / "bin" / "rfx", "inspect", "run/policy"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr


@pytest.mark.long
def test_the_wheel_installed_for_a_robot_alone_is_small_and_runs_a_policy(wheel: Path, tmp_path: Path) -> None:
    """With the extra go2 only: under 180 MB, nothing that trains or simulates, and a policy folder runs."""
    from rfx.drivers.go2.rules.config import GO2_CONFIG
    from rfx.nn import go2_mlp

    policy = go2_mlp([128, 128]).save(tmp_path / "policy", robot_config=GO2_CONFIG)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    programs = tmp_path / "venv" / "bin"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [programs / "python", "-m", "pip", "install", "--quiet", f"{wheel}[go2]"], check=True, env=environment
    )
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    assert not {path.name for path in packages.iterdir()} & {
        "tinygrad",
        "hydra",
        "ziglang",
        "mujoco",
        "gymnasium",
        "torch",
    }
    size = int(subprocess.run(["du", "-sm", packages], check=True, capture_output=True, text=True).stdout.split()[0])
    print(f"site-packages: {size} MB")
    assert size < 180

    def rfx(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [programs / "rfx", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    done = rfx("deploy", str(policy), "--robot", "mock", "--duration", "0.5")
    assert done.returncode == 0 and "steps" in done.stdout, done.stderr
    done = rfx("preflight", str(policy), "--interface", "lo", "--domain", "99")
    assert done.returncode == 1 and "ok    policy: MLP for go2" in done.stdout and "FAULT LowState: none" in done.stdout
    assert (rfx("deploy", str(policy)).returncode, rfx("emulate-go2").returncode) == (2, 2)
