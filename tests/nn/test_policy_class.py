"""The base class of policies: which class weights are of, how one is built from what was recorded, and what is refused,
word by word.
"""

import copy
import dataclasses
import functools
import re
import warnings

import numpy as np
import pytest
from tinygrad import Tensor, dtypes
from tinygrad.nn.state import get_state_dict

from rfx import JointConfig, ObservationNormalizer, RobotConfig, inspect_policy
from rfx.nn import MLP, ActorCritic, CategoricalMLP, Policy, register_policy
from rfx.nn import policy as policy_module
from rfx.nn.policy import _build, _class_for, registered_policy
from rfx.settings.terms import nearest


def rng(seed=0):
    return np.random.default_rng(seed)


def arrays(policy):
    return {name: tensor.numpy() for name, tensor in get_state_dict(policy).items()}


@functools.cache
def mlp_weights():
    """Of a small MLP; a function, since importing this file must open no device (measure/mutants.py)."""
    return arrays(MLP(6, 2, [4], rng=rng()))


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(policy_module, "_registered", dict(policy_module._registered))


def refused(call, message, kind=ValueError):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        call()


class Scale(Policy):
    """Multiplies by a number for each column; it has a generator among its arguments, and one argument by position
    alone.
    """

    def __init__(self, width, factor=1.0, *, rng=None, name="scale"):
        self.by, self.name = Tensor(np.full(width, factor, np.float32)), name

    def forward(self, obs):
        return obs * self.by


def test_the_constructors_arguments_are_recorded_without_generators():
    assert Scale(3, rng=rng(), name="x")._named_arguments() == {"width": 3, "name": "x"}
    assert Scale(width=3, factor=2.0)._named_arguments() == {"width": 3, "factor": 2.0}
    assert MLP(6, 2, rng=rng())._named_arguments() == {"obs_dim": 6, "act_dim": 2}


def test_a_class_is_registered_under_its_name_once():
    assert register_policy(Scale) is Scale and registered_policy("Scale") is Scale
    assert register_policy(Scale) is Scale
    again = type("Scale", (Policy,), {"__module__": Scale.__module__})
    assert register_policy(again) is again is registered_policy("Scale"), "a class that is defined anew"
    for other in ({"__module__": "elsewhere"}, {"__module__": Scale.__module__, "__qualname__": "f.Scale"}):
        refused(
            lambda: register_policy(type("Scale", (Policy,), other)),
            "the name Scale is taken by test_policy_class.Scale; choose another name",
        )
    for wrong in (int, 3):
        refused(lambda: register_policy(wrong), f"got {wrong!r}; expected a subclass of rfx.nn.Policy", TypeError)
    refused(
        lambda: registered_policy("MPL"),
        f"no policy class 'MPL' is registered; {nearest('MPL', policy_module._registered)}: import the module "
        "that defines it, with @register_policy above the class",
    )
    assert "did you mean 'MLP'" in nearest("MPL", policy_module._registered)


def test_weights_tell_their_class():
    for kind in (MLP, ActorCritic):
        assert _class_for(arrays(kind(6, 2, [4]))) is kind
    register_policy(Scale)
    names = ", ".join(policy_module._registered)
    for weights, told in (({}, "none"), (arrays(Scale(3)) | {"b": np.zeros(1)}, "by, b")):
        refused(
            lambda: _class_for(weights),
            f"got weights {told}, which tell no registered class ({names}); call load on the class itself",
        )


def test_a_policy_is_built_from_its_arguments_and_weights():
    x = rng(1).normal(size=(3, 6)).astype(np.float32)
    for arguments in ({}, {"obs_dim": 6, "act_dim": 2, "hidden": [4]}, {"obs_dim": 6, "hidden": None}):
        policy = _build(MLP, arguments, mlp_weights())
        assert type(policy) is MLP and policy.hidden == [4] and policy.history == 1
        np.testing.assert_array_equal(
            policy.forward(Tensor(x)).numpy(), MLP(6, 2, [4], rng=rng()).forward(Tensor(x)).numpy()
        )
    assert (_build(MLP, {"history": 3}, mlp_weights()).obs_dim, _build(MLP, {"history": 3}, mlp_weights()).history) == (
        2,
        3,
    )
    built = _build(Scale, {"width": 3, "name": "x"}, {"by": np.array([1.0, 2.0, 3.0])})
    assert built.name == "x" and built.by.numpy().tolist() == [1.0, 2.0, 3.0] and built.by.dtype == dtypes.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"act_dim": 3}, "got act_dim 3, but the weights are those of 2; save the policy anew"),
        ({"hidden": [4, 4]}, "got hidden [4, 4], but the weights are those of [4]; save the policy anew"),
        ({"history": 2, "obs_dim": 6}, "got obs_dim 6, but the weights are those of 3; save the policy anew"),
        *(
            (
                {"history": wrong},
                f"got history {wrong!r}, but the weights read 6 numbers; expected how many observations these are",
            )
            for wrong in (4, 0, -1, 1.5, True, "2", None)
        ),
        (
            {"widht": 1},
            f"MLP takes no argument 'widht': {nearest('widht', ('obs_dim', 'act_dim', 'hidden', 'history', 'activation', 'rng'))}",
        ),
    ],
)
def test_recorded_arguments_that_do_not_fit_are_refused(arguments, message):
    refused(lambda: _build(MLP, arguments, mlp_weights()), message)


def test_arguments_that_tell_no_observation_are_taken_as_they_are():
    """A class whose weights tell something else, and one whose weights tell nothing, for any history."""

    class Told(Scale):
        @classmethod
        def infer_arguments(cls, shapes):
            return {"width": shapes["by"][0]}

    class Silent(Policy):
        pass

    assert _build(Told, {}, {"by": np.ones(3)}).by.shape == (3,) and _build(
        Told, {"width": 3}, {"by": np.ones(3)}
    ).by.shape == (3,)
    assert type(_build(Silent, {}, {})) is Silent


def test_a_constructor_that_fails_and_weights_that_differ_are_named():
    refused(
        lambda: _build(Scale, {"factor": 2.0}, {"by": np.ones(3)}),
        "Scale cannot be built from the recorded arguments {'factor': 2.0}: "
        "Scale.__init__() missing 1 required positional argument: 'width'",
    )
    refused(
        lambda: _build(Scale, {"width": 3}, {"by": np.ones(3), "a": np.ones(1)}),
        "got weights ['a', 'by']; Scale has ['by']",
    )
    refused(lambda: _build(Scale, {"width": 3}, {"by": np.ones(4)}), "got by of shape (4,); Scale has (3,)")
    refused(
        lambda: _build(MLP, {}, mlp_weights() | {"more": np.ones(1)}),
        f"got weights {sorted([*mlp_weights(), 'more'])}; MLP has {sorted(mlp_weights())}",
    )


def test_a_subclass_tells_arguments_only_where_its_constructor_is_the_tellers():
    class Small(MLP):
        def __init__(self, width):
            super().__init__(6, 2, [width])

    class Same(MLP):
        pass

    assert _build(Small, {"width": 4}, mlp_weights()).hidden == [4] and _build(Same, {}, mlp_weights()).hidden == [4]


def test_weights_of_other_types_become_the_tensors_own_where_their_values_fit():
    assert (
        _build(MLP, {}, {name: array.astype(np.float64) for name, array in mlp_weights().items()})
        .layers[0]
        .weight.dtype
        == dtypes.float32
    )
    with warnings.catch_warnings(action="error"):  # it is said once
        refused(
            lambda: _build(MLP, {}, mlp_weights() | {"layers.0.bias": np.full(4, 1e300)}),
            "weights: got values in layers.0.bias that are not finite; such a policy cannot run",
        )
    with pytest.raises(TypeError, match="same_kind"):
        _build(MLP, {}, mlp_weights() | {"layers.0.bias": np.zeros(4, complex)})


def test_whole_numbers_stay_whole():
    class Counting(Policy):
        def __init__(self):
            self.count = Tensor([0], dtype=dtypes.int32)

    count = _build(Counting, {}, {"count": np.array([2**24 + 1], np.int32)}).count  # float32 has no such number
    assert count.dtype == dtypes.int32 and count.tolist() == [2**24 + 1]


def test_a_copy_is_built_anew_with_the_same_weights():
    policy = Scale(3, 2.0, name="x")
    policy.by.assign(Tensor([1.0, 2.0, 3.0])).realize()
    same = copy.deepcopy(policy)
    assert (
        same.name == "x"
        and same.by.numpy().tolist() == [1.0, 2.0, 3.0]
        and same._named_arguments() == policy._named_arguments()
    )
    same.by.assign(same.by + 1.0).realize()
    assert policy.by.numpy().tolist() == [1.0, 2.0, 3.0]


def test_a_call_returns_memory_of_its_own_and_takes_tensors_alone():
    policy = Scale(2, 2.0)
    first = policy(Tensor([[1.0, 2.0]]))
    for row in ([[3.0, 4.0]], [[5.0, 6.0]]):
        assert policy(Tensor(row)).numpy().tolist() == [[2.0 * x for x in row[0]]]
    assert first.numpy().tolist() == [[2.0, 4.0]]
    refused(
        lambda: policy(np.ones((1, 2))),
        "got ndarray; expected a tinygrad Tensor: pass Tensor(obs), or use rfx.load_policy",
        TypeError,
    )
    refused(lambda: Policy()(Tensor([[1.0]])), "Policy does not define forward(obs)", NotImplementedError)


def test_a_call_is_compiled_once_for_each_shape_and_type():
    seen = []

    class Noting(Scale):
        def forward(self, obs):
            seen.append((obs.shape, obs.dtype))
            return super().forward(obs)

    policy = Noting(2, 3.0)
    for _ in range(4):
        for rows, dtype in ((1, dtypes.float32), (2, dtypes.float32), (2, dtypes.int32)):
            assert (
                policy(Tensor(np.ones((rows, 2)), dtype=dtype).contiguous().realize()).numpy().tolist()
                == [[3.0, 3.0]] * rows
            )
    assert len(seen) <= 6 and len(set(seen)) == 3
    policy.by.replace(Tensor([4.0, 4.0]))
    assert policy(Tensor([[1.0, 1.0]])).numpy().tolist() == [[4.0, 4.0]], "weights that were replaced"


def test_a_policy_stays_on_its_device():
    class There(Scale):
        def __init__(self, width):
            self.by = Tensor(np.ones(width, np.float32), device="CPU:1")

    policy = _build(There, {"width": 2}, {"by": np.array([2.0, 3.0])})
    assert policy.by.device == "CPU:1" and policy.by.numpy().tolist() == [2.0, 3.0]
    for x in (1.0, 2.0, 3.0):
        result = policy(Tensor([[x, x]], device="CPU:1"))
        assert result.device == "CPU:1" and result.numpy().tolist() == [[2.0 * x, 3.0 * x]]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("robot_config", "got a policy of width 6 for a robot_config of state_dim 5 (max_state_dim 64)"),
        ("normalizer", "got a normalizer of state_dim 5; expected 6"),
    ],
)
def test_a_folder_whose_parts_do_not_fit_is_named(tmp_path, part, message):
    """As of one that was put together by hand: what each file says is right by itself."""
    parts = {
        width: {
            "robot_config": RobotConfig(
                name="r", state_dim=width, action_dim=2, joints=(JointConfig(name="a"), JointConfig(name="b"))
            ),
            "normalizer": ObservationNormalizer(width),
        }
        for width in (6, 5)
    }
    path = MLP(6, 2, [4], rng=rng()).save(tmp_path / "p", **{part: parts[6][part]})
    info = inspect_policy(path)
    assert Policy.from_info(info).hidden == [4]
    refused(lambda: Policy.from_info(dataclasses.replace(info, **{part: parts[5][part]})), f"{path}: {message}")


def test_a_policy_loads_as_the_class_it_is_asked_of(tmp_path):
    path = MLP(6, 2, [4], rng=rng()).save(tmp_path / "p")
    assert type(Policy.load(path)) is type(MLP.load(path)) is type(Policy.load(path / "model.safetensors")) is MLP
    assert type(CategoricalMLP.load(path)) is CategoricalMLP
    with pytest.raises(ValueError, match="model.safetensors.*actor_head.weight of shape"):
        ActorCritic.load(path / "model.safetensors")
    np.testing.assert_array_equal(Policy.load(path).layers[0].weight.numpy(), mlp_weights()["layers.0.weight"])
