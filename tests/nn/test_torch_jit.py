"""TorchScript models behind the Policy interface: what they compute, and what is refused, word by word."""

import re

import numpy as np
import pytest

from rfx.nn import Policy, TorchJitPolicy

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Model(torch.nn.Module):
    """A layer, and noise as long as it is not told that it serves."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(5, 2)

    def forward(self, x):
        return self.layer(x) + (1000.0 if self.training else 0.0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model, and the file that it is in."""
    torch.manual_seed(0)
    model, path = Model().train(), tmp_path_factory.mktemp("torch") / "model.pt"
    torch.jit.save(torch.jit.script(model), path)
    return model.eval(), path


def refused(call, message, kind):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        call()


def test_its_entries_are_joined_and_the_model_runs(saved):
    model, path = saved
    policy = TorchJitPolicy(path, obs_keys=("state", "command"))
    obs = {"command": torch.randn(3, 1), "state": torch.randn(3, 4)}
    result, expected = policy(obs), model(torch.cat([obs["state"], obs["command"]], dim=1)).detach()
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(policy.forward(obs).detach(), expected)
    assert not result.requires_grad and policy.forward(obs).requires_grad and isinstance(policy, Policy)
    assert policy.obs_keys == ["state", "command"] and policy.device == torch.device("cpu")
    of_two = {"command": torch.randn(2, 3, 1), "state": torch.randn(2, 3, 4)}
    torch.testing.assert_close(policy(of_two), model(torch.cat([of_two["state"], of_two["command"]], dim=2)).detach())
    loaded = TorchJitPolicy.load(path)
    assert loaded.obs_keys == ["state"] and [tuple(weight.shape) for weight in loaded.parameters()] == [(2, 5), (2,)]
    torch.testing.assert_close(loaded({"state": torch.ones(3, 5), "command": None}), model(torch.ones(3, 5)).detach())


class Keeping(torch.nn.Module):
    """It answers in the same memory every time."""

    def __init__(self):
        super().__init__()
        self.register_buffer("answer", torch.zeros(1, 2))

    def forward(self, x):
        return self.answer.copy_(x)


def test_an_answer_stays_when_the_next_one_comes(tmp_path):
    torch.jit.save(torch.jit.script(Keeping()), tmp_path / "model.pt")
    policy = TorchJitPolicy(tmp_path / "model.pt")
    answers = [policy({"state": torch.full((1, 2), value)}) for value in (1.0, 2.0)]
    assert [answer.tolist() for answer in answers] == [[[1.0, 1.0]], [[2.0, 2.0]]]


def test_tensors_and_model_are_on_its_device(saved):
    policy = TorchJitPolicy(saved[1], device="meta")
    assert policy.device == torch.device("meta") and all(weight.device.type == "meta" for weight in policy.parameters())
    assert policy.forward({"state": torch.zeros(1, 5)}).device.type == "meta"


def test_without_a_model_nothing_runs():
    policy = TorchJitPolicy()
    assert policy.parameters() == [] and policy.model is None
    for call in (policy, policy.forward):
        refused(
            lambda: call({"state": torch.zeros(1, 5)}),
            "this TorchJitPolicy has no model; construct it with model_path",
            RuntimeError,
        )


def test_what_does_not_fit_is_refused(saved, tmp_path):
    _, path = saved
    policy = TorchJitPolicy(path, obs_keys=["state", "command"])
    five, one = torch.zeros(1, 4), torch.zeros(1, 1)
    refused(
        lambda: policy({"other": five, "state": five}),
        repr("the observation has 'other', 'state'; expected 'command'"),
        KeyError,
    )
    refused(lambda: policy({}), repr("the observation has nothing; expected 'state'"), KeyError)
    refused(
        lambda: policy({"state": five, "command": np.zeros((1, 1))}),
        "got ndarray for 'command'; expected a torch tensor",
        TypeError,
    )
    refused(
        lambda: policy((five, one)), "got tuple; expected a dictionary of torch tensors with state, command", TypeError
    )
    refused(
        lambda: policy.save(tmp_path / "p", normalizer=None),
        "got a TorchJitPolicy to save; a policy folder holds weights and no code: keep the .pt file instead",
        TypeError,
    )
    refused(
        lambda: TorchJitPolicy(path, obs_keys=[]),
        "got no obs_keys; expected at least one entry of the observation, such as 'state'",
        ValueError,
    )
    for none in (tmp_path / "none.pt", tmp_path):
        refused(
            lambda: TorchJitPolicy(none),
            f"got model_path {none}, where there is no file; expected one saved with torch.jit.save",
            FileNotFoundError,
        )
    (tmp_path / "bad.pt").write_bytes(b"not TorchScript")
    with pytest.raises(
        ValueError, match=rf"^{re.escape(str(tmp_path / 'bad.pt'))} is not a TorchScript file: .*PytorchStreamReader"
    ):
        TorchJitPolicy(tmp_path / "bad.pt")
