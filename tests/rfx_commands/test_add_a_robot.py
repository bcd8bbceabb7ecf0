"""docs/add_a_robot.md, followed word for word in a checkout of its own, with shorter training: two files make a robot
walk, and no Python file changes.
"""

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

import rfx
from envs.settings.configs import compose

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "add_a_robot.md").read_text()
COMMANDS = 9
SHORT = [
    "env.num_envs=8",
    "trainer.rollout_steps=8",
    "ppo.num_epochs=1",
    "ppo.num_minibatches=2",
    "policy.hidden=[16]",
    "trainer.total_steps=256",
    "trainer.evaluation_envs=2",
    "trainer.evaluation_s=0.4",
    "trainer.final_evaluation_envs=2",
    "trainer.final_evaluation_s=0.4",
]
ADDED = {
    "python -m train ": SHORT,
    "python -m train.evaluate ": ["num_envs=4", "duration_s=1.1"],
    "python -m train.play ": ["window=false", "port=0"],
    "rfx deploy ": ["--duration", "1"],
}
# The page's Bus is the reader's own; here the robot behind it is MuJoCo's.
BUS = """
from rfx import load_robot
from rfx.drivers.sim import Physics

class Bus:
    def __init__(self):
        self.physics = Physics(load_robot("puppy"))

    def read(self):
        physics = self.physics
        return physics.joint_position, physics.joint_velocity, physics.base_angular_velocity_b, physics.base_quaternion

    def send(self, position, kp, kd):
        self.physics.set_motors(position, kp=kp, kd=kd)
        self.physics.step(4)
"""


@dataclass
class Done:
    """A command of the page, and what came of it."""

    line: str
    returncode: int
    stdout: str
    stderr: str


def steps() -> list[tuple[str, str, str]]:
    """The page's blocks in order: what the paragraph above says to put it into, or nothing, its language and its
    text.
    """
    parts = re.split(r"^```(\w*)\n", PAGE, flags=re.MULTILINE)  # text, language, block, "", text, language, block, ...
    found = []
    for above, language, text in zip(parts[0::4], parts[1::4], parts[2::4]):
        into = re.search(r"Put\s+this\s+into\s+`([^`]+)`", above.rstrip().rpartition("\n\n")[2])
        found.append((into[1] if into else "", language, text))
    return found


def digest(checkout: Path) -> str:
    """Of all Python files."""
    files = sorted(path for room in ("rfx", "envs", "train") for path in (checkout / room).rglob("*.py"))
    return hashlib.sha256(
        b"".join(str(path.relative_to(checkout)).encode() + path.read_bytes() for path in files)
    ).hexdigest()


def run(line: str, checkout: Path) -> Done:
    """One line of a shell block, with what the test adds to it."""
    words = shlex.split(line) + next((added for start, added in ADDED.items() if line.startswith(start)), [])
    command = {"python": [sys.executable], "rfx": [sys.executable, "-m", "rfx.commands.cli"]}.get(
        words[0], words[:1]
    ) + words[1:]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH")]))
    }
    process = subprocess.Popen(
        command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    served = ""
    if "train.play" in line:  # it goes on until it is interrupted
        served = process.stdout.readline()
        process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=240)
    return Done(line=line, returncode=process.returncode, stdout=served + out, stderr=error)


def register(checkout: Path, toml: str) -> None:
    """What pip leaves of the page's pyproject.toml beside the modules."""
    project = tomllib.loads(toml)["project"]
    info = checkout / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("".join(lines))


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> tuple[Path, list[Done], str]:
    """The checkout after the page was followed, its commands, and the digest of its Python files before."""
    checkout = tmp_path_factory.mktemp("checkout")
    for room in ("rfx", "envs", "train", "configs", "assets"):
        shutil.copytree(ROOT / room, checkout / room, ignore=shutil.ignore_patterns("__pycache__"))
    before, done = digest(checkout), []
    (checkout / "puppy_bus.py").write_text(BUS)
    for into, language, text in steps():
        if into:
            (checkout / into).parent.mkdir(exist_ok=True)
            (checkout / into).write_text(text)
            if language == "toml":
                register(checkout, text)
        else:
            assert language == "sh", f"a block of {language} that the page does not say what to do with"
            done += [run(line, checkout) for line in text.splitlines()]
    return checkout, done, before


def test_the_page_has_both_files_and_all_commands():
    files = [into for into, _, _ in steps() if into]
    assert files == [
        "puppy/puppy.xml",
        "puppy/robot.yaml",
        "configs/robot/puppy.yaml",
        "puppy_driver.py",
        "pyproject.toml",
    ]
    assert len(steps()) == PAGE.count("```") / 2
    assert sum(text.count("\n") for _, language, text in steps() if language == "sh") == COMMANDS


def test_the_keys_that_the_page_names_are_there():
    """In its tables and sentences too: of the shared task, or of a robot.yaml."""
    named = set(re.findall(r"`((?:env|policy|ppo|trainer)(?:\.\w+)+)[=`]", PAGE))
    assert len(named) >= 10
    for key in named:
        place = compose("tasks", "legged")
        for name in key.split("."):
            assert name in place, key
            place = place[name]


@pytest.mark.e2e
def test_every_command_does_what_the_page_says(followed):
    _, done, _ = followed
    assert len(done) == COMMANDS
    for command in done:
        expected = 130 if "train.play" in command.line else 0  # interrupted
        assert command.returncode == expected, f"{command.line}\n{command.stdout}\n{command.stderr}"
        assert "Traceback" not in command.stderr


@pytest.mark.e2e
def test_check_robot_finds_nothing(followed):
    checkout, done, _ = followed
    checks = [command for command in done if command.line.startswith("rfx check-robot")]
    assert len(checks) == 2
    for command in checks:
        assert "stands             ok" in command.stdout and not re.search("warning|mistake", command.stdout)
    assert (checkout / "puppy.png").exists() or "no picture" in checks[0].stdout


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["puppy", "named"])
def test_training_leaves_a_policy_for_this_robot(followed, name):
    checkout, _, _ = followed
    policy = rfx.load_policy(checkout / "runs" / name / "policy")
    robot = policy.robot_config
    assert (robot.name, len(robot.joints), robot.state_dim) == ("puppy", 12, 48) and policy.training_info["steps"] > 0
    assert policy.training_info["env"]["rewards"]["base_height"]["target_m"] == 0.2


@pytest.mark.e2e
def test_the_policy_is_judged_shown_and_deployed(followed):
    checkout, done, _ = followed
    of = {start: [command for command in done if command.line.startswith(start)] for start in ADDED}
    assert all("falls" in command.stdout for command in of["python -m train.evaluate "]) and [
        *(checkout / "runs" / "puppy").glob("evaluation_*.json")
    ]
    assert of["python -m train.play "][0].stdout.startswith("open http://")
    simulated, real = of["rfx deploy "]
    assert simulated.line.endswith("--robot sim --vx 0.5") and real.line.endswith("--robot puppy")
    steps = [re.match(r"(\d+) steps, ", command.stdout) for command in (simulated, real)]
    assert all(steps) and all(
        25 <= int(found[1]) <= 50 for found in steps
    )  # one second at 50 Hz; a busy machine leaves steps out


@pytest.mark.e2e
def test_no_python_file_changed(followed):
    checkout, _, before = followed
    assert digest(checkout) == before == digest(ROOT)
