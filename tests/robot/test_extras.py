"""What is installed apart: a robot's computer needs little, what is missing is named with its mend, and no message
names a stranger's package.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import rfx
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.nn import MLP, ActorCritic, Policy, PrivilegedActorCritic, register_policy
from rfx.policy.actor import Actor
from rfx.policy.normalizer import ObservationNormalizer
from rfx.system import extras

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = ("tinygrad", "hydra", "omegaconf", "gymnasium", "mujoco", "tensorboardX", "ziglang", "torch", "matplotlib")
# as if not installed
WITHOUT = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfor name in {HEAVY!r}: sys.modules[name] = None\n"
TYPES = {
    "MLP": lambda **options: MLP(48, 12, [32, 16], **options),
    "ActorCritic": lambda **options: ActorCritic(48, 12, [32, 16], **options),
    "PrivilegedActorCritic": lambda **options: PrivilegedActorCritic(48, 12, 60, [32, 16], **options),
}


def distribution(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def test_no_message_installs_a_package_of_our_modules_name():
    """The name rfx on PyPI is somebody else's: a command names the checkout's own folder, `.`, until this is published
    under its own name.
    """
    texts = [
        path
        for folder in ("rfx", "envs", "train", "configs", "assets", "docs", "tests")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".md", ".yaml", ".c", ".xml", ".html") and path != Path(__file__)
    ]
    wrong = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in (*texts, ROOT / "README.md", ROOT / "Makefile", ROOT / "pyproject.toml")
        for found in re.finditer(r"pip install[^\n]{0,40}?[\s'\"]rfx\b[^\s]*", path.read_text())
    ]
    assert len(texts) > 200 and not wrong, "\n".join(wrong)
    assert PROJECT["name"] != "rfx" and PROJECT["scripts"] == {"rfx": "rfx.commands.cli:main"}
    assert extras.install_command("go2") == "pip install -e '.[go2]'"


def test_every_extra_is_named_by_its_modules_and_the_base_is_small():
    named = {
        extra: {module for module, source in extras.EXTRA_OF.items() if source == extra}
        for extra in extras.EXTRA_OF.values()
    }
    assert named.keys() <= PROJECT["optional-dependencies"].keys()
    modules = {
        "hydra-core": "hydra",
        "mujoco-core": "mujoco",
        "pillow": "PIL",
        "imageio-ffmpeg": "imageio_ffmpeg",
        "huggingface-hub": "huggingface_hub",
        "mujoco-menagerie": "mujoco_menagerie",
        "tensorboardx": "tensorboardX",
        "rsl-rl-lib": "rsl_rl",
        "stable-baselines3": "stable_baselines3",
        "hydra-submitit-launcher": "submitit",
    }
    for extra, requirements in PROJECT["optional-dependencies"].items():
        if extra in ("dev", "docs", "lint"):  # programs that nothing of ours imports
            continue
        for name in map(distribution, requirements):
            if name not in ("ziglang", PROJECT["name"]):  # a compiler, where the system has none; another extra
                assert modules.get(name, name) in extras.EXTRA_OF, (
                    f"{extra} brings {name}: say so in rfx/system/extras.py"
                )
    assert {distribution(requirement) for requirement in PROJECT["dependencies"]} == {
        "msgspec",
        "numpy",
        "pyyaml",
        "safetensors",
    }
    assert [distribution(requirement) for requirement in PROJECT["optional-dependencies"]["go2"]] == ["cyclonedds"]


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("name", TYPES)
def test_a_folder_acts_the_same_without_tinygrad_to_the_bit(name, history, tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    normalizer = ObservationNormalizer(48)
    normalizer.update(rng.normal(0.3, 2.0, (100, 48)).astype(np.float32))
    path = TYPES[name](history=history, rng=rng).save(tmp_path / "p", robot_config=GO2_CONFIG, normalizer=normalizer)
    observations = [{"state": rng.normal(size=(5, 64)).astype(np.float32)} for _ in range(4)]
    loaded = rfx.load_policy(path, GO2_CONFIG)
    expected = [loaded(observation) for observation in observations]
    with monkeypatch.context() as patch:
        for module in HEAVY:
            patch.setitem(sys.modules, module, None)
        alone = rfx.load_policy(path, GO2_CONFIG)
    assert type(alone.policy) is Actor and (alone.policy_type, alone.history) == (name, history) == (
        loaded.policy_type,
        loaded.history,
    )
    for observation, actions in zip(observations, expected):
        np.testing.assert_array_equal(alone(observation), actions)
    assert 0.01 < np.abs(expected).mean() < 0.99 or name != "MLP"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden": [8, 8]}, r"got hidden \[8, 8\], but the weights are those of \[32, 16\]"),
        ({"obs_dim": 47}, "got obs_dim 47, but the weights are those of 48"),
        ({"history": 5}, r"got layers of widths \[48, 32, 16, 12\] and history 5"),
        ({"history": "3"}, "and history '3'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_without_tinygrad_too(change, message):
    weights = {name: tensor.numpy() for name, tensor in _state(TYPES["MLP"]()).items()}
    assert Actor.of(weights, "MLP", {"obs_dim": 48, "act_dim": 12, "hidden": [32, 16]}).hidden == [32, 16]
    with pytest.raises(ValueError, match=message):
        Actor.of(weights, "MLP", {"obs_dim": 48, "act_dim": 12, "hidden": [32, 16], **change})


def test_weights_that_do_not_fit_are_refused_without_tinygrad_too():
    weights = {name: tensor.numpy() for name, tensor in _state(TYPES["ActorCritic"]()).items()}
    assert Actor.of(weights, "ActorCritic", {}).act_dim == 12
    for broken in (
        {"backbone.1.bias": np.zeros(15, np.float32)},
        {"actor_head.weight": np.zeros((12, 17), np.float32)},
        {"more": np.zeros(1)},
        {"backbone.0.weight": np.zeros((32, 48), np.int64)},
    ):
        with pytest.raises(ValueError):
            Actor.of({**weights, **broken}, "ActorCritic", {})
    with pytest.raises(ValueError, match="expected those of a ActorCritic"):
        Actor.of({name: array for name, array in weights.items() if name != "actor_head.bias"}, "ActorCritic", {})


def _state(policy):
    from tinygrad.nn.state import get_state_dict

    return get_state_dict(policy)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A policy folder of an MLP, and one of a class of the user's own."""

    @register_policy
    class OwnOfExtras(Policy):
        def __init__(self):
            self.inside = MLP(48, 12, [8])

    root = tmp_path_factory.mktemp("policies")
    return MLP(48, 12, [8]).save(root / "p", robot_config=GO2_CONFIG), OwnOfExtras().save(
        root / "own", robot_config=GO2_CONFIG
    )


def test_a_robots_computer_runs_a_policy_with_the_base_alone(folders):
    code = WITHOUT + (
        "from rfx.commands.cli import main; import rfx\nstatus = main(['deploy', sys.argv[1], '--robot', 'mock', '--duration', '0.2'])\n"
        "import rfx.drivers.go2.operator.deployment, rfx.drivers.go2.sender.sender, rfx.drivers.go2.sender.guard\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules if 'site-packages' in str(getattr(sys.modules[name], '__file__', ''))}))\n"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folders[0])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^1?\d steps, ", done.stdout)
    loaded = set(re.findall(r"'(\w+)'", done.stdout.splitlines()[-1]))
    assert {"numpy", "safetensors"} <= loaded and not loaded & set(HEAVY)


@pytest.mark.parametrize(
    "command, message",
    [
        ("deploy {policy}", "rfx deploy: this needs mujoco, which is not installed: pip install -e '.[sim]'"),
        (
            "deploy {own} --robot mock",
            "rfx deploy: a policy of type OwnOfExtras needs tinygrad, which is not installed: pip install -e '.[train]'",
        ),
        ("check-robot go2", "rfx check-robot: this needs mujoco, which is not installed: pip install -e '.[sim]'"),
    ],
)
def test_a_missing_extra_is_one_line_with_its_mend_and_exit_code_2(command, message, folders):
    words = command.format(policy=folders[0], own=folders[1]).split()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + "from rfx.commands.cli import main; sys.exit(main(sys.argv[1:]))", *words],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (2, message + "\n")


def test_names_of_rfx_say_their_extra():
    done = subprocess.run([sys.executable, "-c", WITHOUT + "import rfx; rfx.SimRobot"], capture_output=True, text=True)
    assert (
        done.stderr.splitlines()[-1]
        == "ModuleNotFoundError: rfx.SimRobot needs mujoco, which is not installed: pip install -e '.[sim]'"
    )


@pytest.mark.parametrize(
    "module", ["train", "train.evaluate", "train.benchmark", "train.play", "measure.figures", "train.verify"]
)
def test_training_without_its_extra_is_one_line_and_exit_code_2(module):
    code = (
        WITHOUT
        + f"import runpy; sys.argv[1:] = ['+robot=go2']; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    command = "rfx train" if module == "train" else f"python -m {module}"
    assert done.stderr.startswith(f"error: {command} needs mujoco, gymnasium, hydra") and done.stderr.endswith(
        ": pip install -e '.[train]'\n"
    )
