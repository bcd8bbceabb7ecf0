"""A network of the user's own, as docs/nn.md shows it: trained, resumed, saved, loaded and run."""

import io
import re
import shutil
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from rich.console import Console
from tiny_run import assert_same_run, make_config
from tinygrad import Tensor
from tinygrad.nn.state import get_state_dict

import rfx
from rfx.export.to_onnx import export_onnx
from rfx.nn import Policy
from rfx.settings.terms import find_foreign
from train.ppo.forward import Forward
from train.ppo.network import Shape
from train.runs.checkpoint import checkpoints, read_checkpoint
from train.runs.run import train
from train.runs.trainer import Trainer

PAGE = (Path(__file__).parents[2] / "docs" / "nn.md").read_text()
OWN = {"policy.network": "my_nets:Net", "policy.symmetric": False}
OTHERS = """
class Narrow(Net):
    def output(self, obs):
        return self.mean(self.body(obs))


class Broken(Net):
    def output(self, obs):
        raise RuntimeError("not yet\\nwritten")


class Deaf(Net):
    def __init__(self, obs_dim, act_dim, **settings):
        super().__init__(obs_dim, act_dim)


class Choosing(Net):
    chooses = True


class Judged(Net):
    def __init__(self, obs_dim, act_dim, **settings):
        super().__init__(obs_dim, act_dim, width=8, **settings)
        self.judge = Linear(self.critic_dim, 1)

    def forward(self, obs):
        return self.mean(self.body(obs)).tanh()

    def output(self, obs, critic_obs):
        return self.mean(self.body(obs)).cat(self.judge(critic_obs), dim=1)


class Counting(Net):
    def __init__(self, obs_dim, act_dim, **settings):
        super().__init__(obs_dim, act_dim, **settings)
        self.count = Tensor([0])
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory with my_nets.py, the networks of the page and some more.

    What is imported is forgotten afterwards.
    """
    blocks = [
        block
        for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
        if "(TrainablePolicy)" in block
    ]
    (tmp_path / "my_nets.py").write_text("from tinygrad import Tensor\n" + "\n\n".join(blocks) + "\n" + OTHERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("my_nets", "elsewhere", "p")]:
        del sys.modules[name]


def shape(network, actions=None, state_dim=6, critic_dim=0, **policy):
    """What training asks a network for, of a robot with these widths."""
    config = make_config(
        **OWN | {"policy.network": f"my_nets:{network}"} | {f"policy.{name}": value for name, value in policy.items()},
        **({"policy.critic": "privileged"} if critic_dim else {}),
    )
    observation = {"state": np.zeros((1, state_dim)), **({"critic": np.zeros((1, critic_dim))} if critic_dim else {})}
    return Shape(config.policy, observation, Box(-1.0, 1.0, (3,)) if actions is None else actions, state_dim)


def net_in_numpy(weights, x):
    """The page's Net: mean actions, float64."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    x = x @ w["body.weight"].T + w["body.bias"]
    x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5) * w["norm.weight"] + w[
        "norm.bias"
    ]
    return np.tanh((x / (1.0 + np.exp(-x))) @ w["mean.weight"].T + w["mean.bias"])


def test_it_is_trained_resumed_to_the_bit_saved_loaded_and_run(folder):
    settings = OWN | {
        "policy.network_kwargs": {"width": 8},
        "trainer.total_steps": 4 * 64,
        "trainer.checkpoint_every": 64,
        "trainer.evaluate_every": 2 * 64,
        "trainer.keep_checkpoints": 9,
    }
    told, run = io.StringIO(), folder / "run"
    assert train(make_config(**settings), run, Console(file=told, width=500))["status"] == "finished"
    assert sum("my_nets:Net" in line and "plain tinygrad" in line for line in told.getvalue().splitlines()) == 1

    again = shutil.copytree(run, folder / "again")
    for path in checkpoints(again / "checkpoints")[3:]:  # of the beginning, and of the first two iterations, are left
        shutil.rmtree(path)
    assert train(make_config(**settings, resume=str(again)), again, Console(file=io.StringIO()))["status"] == "finished"
    assert_same_run(again, run)

    info, policy = rfx.inspect_policy(run / "policy"), rfx.load_policy(run / "policy")
    assert (info.policy_type, info.module) == ("Net", "my_nets") and type(policy.policy).__name__ == "Net"
    weights, state = info.read_weights(), read_checkpoint(run / "checkpoints" / f"{info.training_info['steps']:012d}")
    for name, array in weights.items():
        np.testing.assert_array_equal(array, state[f"learner.policy.{name}"], err_msg=name)
    obs = np.random.default_rng(0).standard_normal((5, 48)).astype(np.float32)
    np.testing.assert_allclose(
        policy({"state": obs}), net_in_numpy(weights, policy.normalizer.normalize(obs)), atol=2e-6
    )
    with pytest.raises(ValueError, match="own networks only"):
        export_onnx(run / "policy", folder / "policy.onnx")


def saved(folder, name="policy"):
    return shape("Net").network(np.random.default_rng(0)).actor().save(folder / name)


def test_a_policy_without_its_module_says_what_it_needs(folder, monkeypatch):
    path, elsewhere = saved(folder), folder / "other"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(folder)])
    del sys.modules["my_nets"]
    with pytest.raises(ValueError, match="my_nets:Net") as error:
        rfx.load_policy(path)
    assert "\n" not in str(error.value)
    (elsewhere / "my_nets.py").write_text("Net = 3\n")
    with pytest.raises(ValueError, match="my_nets:Net"):
        rfx.load_policy(path)


def test_a_policy_of_a_module_that_moved_is_found_under_its_registered_name(folder, monkeypatch):
    from rfx.nn import policy, register_policy

    path = saved(folder)
    monkeypatch.setattr(policy, "_registered", dict(policy._registered))
    (folder / "my_nets.py").rename(folder / "elsewhere.py")
    del sys.modules["my_nets"]
    moved = register_policy(find_foreign("elsewhere:Net"))
    assert type(Policy.load(path)) is moved


@pytest.mark.parametrize("package", [True, False])
def test_no_code_is_run_from_a_policy_folder(folder, package):
    """Neither from the module that it names, nor from packages on the way there."""
    path, harm = saved(folder, "p"), folder / "harm"
    for name in ("evil.py", *(["__init__.py"] if package else [])):
        (path / name).write_text(f"open({str(harm)!r}, 'w')\n")
    config = path / "rfx_config.json"
    config.write_text(config.read_text().replace('"my_nets"', '"p.evil"'))
    with pytest.raises(ValueError, match="p.evil:Net"):
        rfx.load_policy(path)
    assert not harm.exists()


def test_its_first_weights_follow_from_the_seed(folder):
    first, again, other = (
        {
            name: tensor.numpy()
            for name, tensor in get_state_dict(shape("Net").network(np.random.default_rng(seed))).items()
        }
        for seed in (0, 0, 1)
    )
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name], err_msg=name)
    assert not np.array_equal(first["body.weight"], other["body.weight"])


def test_the_pages_recurrent_network_is_a_gru_over_the_last_observations(folder):
    policy = shape("Recurrent", history=3, network_kwargs={"width": 5}).network(np.random.default_rng(0))
    w = {name: tensor.numpy().astype(np.float64) for name, tensor in get_state_dict(policy).items()}
    obs = np.random.default_rng(1).standard_normal((4, 18)).astype(np.float32)

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def sigmoid(x):
        return 1.0 / (1.0 + np.exp(-x))

    state = np.tanh(linear("inputs.2", obs[:, :6]))
    for x in (obs[:, 6:12], obs[:, 12:]):
        keep, reset = (sigmoid(linear(f"inputs.{i}", x) + linear(f"states.{i}", state)) for i in range(2))
        state = keep * state + (1.0 - keep) * np.tanh(linear("inputs.2", x) + reset * linear("states.2", state))
    np.testing.assert_allclose(policy.output(Tensor(obs)).numpy(), linear("head", state), atol=2e-6)
    np.testing.assert_allclose(policy.forward(Tensor(obs)).numpy(), np.tanh(linear("head", state)[:, :3]), atol=2e-6)


@pytest.mark.e2e
def test_the_pages_recurrent_network_trains(folder):
    trainer = Trainer(
        make_config(
            **OWN | {"policy.network": "my_nets:Recurrent", "policy.history": 2, "policy.network_kwargs": {"width": 4}}
        )
    )
    before = trainer.learner.weights()
    assert not trainer.iterate()["ppo/skipped_minibatches"]
    for name, array in trainer.learner.weights().items():
        assert np.isfinite(array).all() and np.abs(array - before[name]).max() > 0.0, name


def test_it_may_choose_and_it_may_have_a_privileged_critic(folder):
    choosing, obs = (
        shape("Choosing", Discrete(3)).network(np.random.default_rng(0)),
        np.random.default_rng(1).standard_normal((4, 6)),
    )
    log_probability, _ = Forward(choosing).act(obs)
    np.testing.assert_allclose(np.exp(log_probability).sum(axis=1), 1.0, rtol=1e-5)
    action = rfx.load_policy(choosing.actor().save(folder / "choosing"))({"state": obs.astype(np.float32)})
    np.testing.assert_array_equal(action, log_probability.argmax(axis=1))
    judged = shape("Judged", critic_dim=4).network(np.random.default_rng(0))
    mean, value = Forward(judged).act(obs, np.ones((4, 4)))
    action = rfx.load_policy(judged.actor().save(folder / "judged"))({"state": obs.astype(np.float32)})
    np.testing.assert_allclose(action, mean, atol=1e-6)
    weights = {name: tensor.numpy() for name, tensor in get_state_dict(judged).items()}
    np.testing.assert_allclose(value, np.repeat(weights["judge.weight"].sum() + weights["judge.bias"], 4), rtol=1e-5)


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ("Nett", "did you mean 'Net'"),
        ("Linear", "TrainablePolicy"),
        ("Narrow", r"\(2, 4\)"),
        ("Broken", "not yet written"),
        ("Deaf", "history"),
        ("Choosing", "chooses"),
    ],
)
def test_a_class_that_cannot_be_trained_is_refused_in_one_line(folder, network, told):
    with pytest.raises(ValueError, match=told) as error:
        shape(network, history=2).network(np.random.default_rng(0))
    assert str(error.value).startswith("policy.network") and "\n" not in str(error.value)


def test_weights_that_are_no_float32_are_refused(folder):
    with pytest.raises(ValueError, match="count of int"):
        Forward(shape("Counting").network(np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"policy.symmetric": True}, "policy.symmetric=false"),
        ({"policy.activation": "elu"}, "policy.activation"),
        ({"policy.critic": "privileged", "policy.critic_hidden": [8]}, "policy.critic_hidden"),
        ({"policy.network": None}, "policy.network=MODULE:CLASS"),
    ],
)
def test_settings_that_a_network_of_ones_own_does_not_take_are_refused(changed, told):
    with pytest.raises(ValueError, match=told):
        make_config(**OWN | {"policy.network_kwargs": {"width": 8}} | changed)


@pytest.mark.parametrize("path", ["my_nets", "my_nets:", ":Net", "my nets:Net", "../my_nets:Net"])
def test_a_name_that_is_none_is_refused(path):
    with pytest.raises(ValueError, match="MODULE:NAME"):
        find_foreign(path)


def test_a_module_that_fails_is_told_in_one_line(folder):
    (folder / "elsewhere.py").write_text(
        textwrap.dedent("""
        import not_installed_anywhere
    """)
    )
    for path, told in (("absent_nets:Net", "no module"), ("elsewhere:Net", "not_installed_anywhere")):
        with pytest.raises(ValueError, match=told) as error:
            find_foreign(path)
        assert "\n" not in str(error.value)
