"""Policy folders: what is saved is what is loaded, saving is all or nothing, and a damaged folder is refused or
runs.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tinygrad import Tensor
from tinygrad.nn import Linear
from tinygrad.nn.state import get_state_dict

import rfx
from rfx.drivers.go2.rules.config import GO2_CONFIG
from rfx.nn import MLP, ActorCritic, JitPolicy, Policy, register_policy
from rfx.nn import policy as policy_module
from rfx.policy.folder import CONFIG, NORMALIZER, WEIGHTS
from rfx.policy.normalizer import ObservationNormalizer
from rfx.robot.config import JointConfig, RobotConfig
from rfx.system.folders import replace_folder


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def robot_of(state_dim: int, action_dim: int) -> RobotConfig:
    joints = tuple(JointConfig(name=f"j{i}") for i in range(action_dim))
    return RobotConfig(name="r", state_dim=state_dim, action_dim=action_dim, joints=joints)


def normalizer_of(state_dim: int) -> ObservationNormalizer:
    normalizer = ObservationNormalizer(state_dim)
    normalizer.update(rng(5).normal(1.0, 2.0, (20, state_dim)))
    return normalizer


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(policy_module, "_registered", dict(policy_module._registered))


# Saved is loaded

widths = st.integers(1, 24)


@settings(
    max_examples=5, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the same kernels every time
@given(
    kind=st.sampled_from([MLP, ActorCritic]),
    obs_dim=widths,
    act_dim=widths,
    hidden=st.lists(widths, max_size=3),
    seed=st.integers(0, 99),
)
def test_any_architecture_acts_the_same_after_saving_and_loading(tmp_path, kind, obs_dim, act_dim, hidden, seed):
    policy = kind(obs_dim, act_dim, hidden, rng=rng(seed))
    path = policy.save(tmp_path / "policy", robot_config=robot_of(obs_dim, act_dim), normalizer=normalizer_of(obs_dim))
    obs = rng(seed).normal(size=(3, obs_dim)).astype(np.float32)
    for again in (Policy.load(path), kind.load(path), Policy.load(path / WEIGHTS)):
        assert type(again) is kind and again.hidden == hidden
        for ours, theirs in zip(policy.parameters(), again.parameters(), strict=True):
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    np.testing.assert_array_equal(again(Tensor(obs)).numpy(), policy(Tensor(obs)).numpy())
    expected = policy(Tensor(normalizer_of(obs_dim).normalize(obs))).numpy()
    np.testing.assert_allclose(
        rfx.load_policy(path)({"state": np.pad(obs, ((0, 0), (0, 64 - obs_dim)))}), expected, atol=3e-6
    )


def test_what_is_bundled_comes_back(tmp_path):
    info = {
        "steps": np.int64(5),
        "reward": np.float32(0.5),
        "lost": float("nan"),
        "curve": np.arange(2),
        "run": Path("runs/a"),
        "seeds": (1, 2),
    }
    before = copy.deepcopy(info)
    policy, normalizer = MLP(48, 12, [8], rng=rng()), normalizer_of(48)
    path = policy.save(tmp_path / "new" / "policy", robot_config=GO2_CONFIG, normalizer=normalizer, training_info=info)
    assert path == tmp_path / "new" / "policy" and sorted(os.listdir(path)) == sorted([CONFIG, NORMALIZER, WEIGHTS])
    assert info.keys() == before.keys() and info["seeds"] == (1, 2)
    loaded, inspected = rfx.load_policy(path), rfx.inspect_policy(path)
    for found in (loaded, inspected):
        assert found.robot_config == GO2_CONFIG and found.policy_type == "MLP"
        assert found.normalizer.to_dict() == normalizer.to_dict()
        assert found.training_info == {
            "steps": 5,
            "reward": 0.5,
            "lost": None,
            "curve": [0, 1],
            "run": "runs/a",
            "seeds": [1, 2],
        }
    assert (
        inspected.arguments == {"obs_dim": 48, "act_dim": 12, "hidden": [8]}
        and inspected.rfx_version == rfx.__version__
    )
    assert inspected.weight_shapes["layers.0.weight"] == (8, 48)


def test_normalizer_json_holds_the_documented_entries(tmp_path):
    path = MLP(3, 2, []).save(tmp_path / "p", normalizer=normalizer_of(3))
    assert set(json.loads((path / NORMALIZER).read_text())) == {
        "state_dim",
        "clip",
        "eps",
        "resolution",
        "mean",
        "var",
        "count",
    }


class Custom(Policy):
    def __init__(self):
        self.l1 = Linear(4, 2)

    def forward(self, obs):
        return self.l1(obs).tanh()


class Options(Policy):
    def __init__(self, first, /, *sizes, scale=2.0, rng=None, **names):
        self.seen = (first, sizes, scale, names)
        self.layers = [Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:])]

    def forward(self, obs):
        for layer in self.layers:
            obs = layer(obs)
        return obs * self.seen[2]


@pytest.mark.parametrize("make", [Custom, lambda: Options("a", 4, 3, 2, scale=0.5, rng=rng(), extra={"b": [1]})])
def test_a_class_of_the_user_needs_no_registration_where_its_module_can_be_imported(tmp_path, make):
    policy, obs = make(), Tensor(rng().normal(size=(2, 4)).astype(np.float32))
    path, expected = policy.save(tmp_path / "p"), policy(obs).numpy()
    assert rfx.inspect_policy(path).module == __name__
    np.testing.assert_array_equal(type(policy).load(path)(obs).numpy(), expected)  # a subclass knows itself
    again = Policy.load(path)
    assert type(again) is type(policy) and getattr(again, "seen", None) == getattr(policy, "seen", None)
    np.testing.assert_array_equal(again(obs).numpy(), expected)
    np.testing.assert_allclose(rfx.load_policy(path)({"state": obs.numpy()}), expected, rtol=1e-6)
    np.testing.assert_allclose(rfx.load_policy(again.save(tmp_path / "q"))({"state": obs.numpy()}), expected, rtol=1e-6)


def test_a_subclass_of_mlp_may_have_a_constructor_of_its_own(tmp_path):
    @register_policy
    class Small(MLP):
        def __init__(self, width):
            super().__init__(4, 2, [width])

    policy = Small(3)
    assert Policy.load(policy.save(tmp_path / "p")).hidden == [3]
    with pytest.raises(ValueError, match="backbone|actor_head"):
        ActorCritic.load(tmp_path / "p")


def test_legacy_file_of_a_class_without_arguments(tmp_path):
    policy, obs = Custom(), Tensor.ones(1, 4)
    path = policy.save(tmp_path / "p") / WEIGHTS
    np.testing.assert_array_equal(Custom.load(path)(obs).numpy(), policy(obs).numpy())
    with pytest.raises(ValueError, match="call load on the class itself"):
        Policy.load(path)


def test_jit_policy_saves_and_loads_as_the_policy_inside(tmp_path):
    policy, obs = MLP(4, 2, [3], rng=rng()), Tensor.ones(2, 4)
    path = JitPolicy(policy).save(tmp_path / "p", robot_config=robot_of(4, 2))
    assert type(Policy.load(path)) is MLP
    again = JitPolicy.load(path)
    assert type(again) is JitPolicy and type(again.policy) is MLP
    np.testing.assert_array_equal(again(obs).numpy(), policy(obs).numpy())


def test_legacy_file_in_double_precision_loads_where_its_values_fit(tmp_path):
    policy = MLP(4, 2, [3], rng=rng())
    weights = {name: array.numpy().astype(np.float64) for name, array in get_state_dict(policy).items()}
    safetensors.numpy.save_file(weights, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(
        Policy.load(tmp_path / "a.safetensors")(Tensor.ones(1, 4)).numpy(), policy(Tensor.ones(1, 4)).numpy()
    )
    weights["layers.0.bias"][1] = 1e300
    safetensors.numpy.save_file(weights, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="b.safetensors.*layers.0.bias that are not finite"):
        Policy.load(tmp_path / "b.safetensors")


# Deployment


@pytest.mark.parametrize("library", ["numpy", "tinygrad", "torch"])
@pytest.mark.parametrize("kind", [MLP, ActorCritic, "own"])
def test_loaded_policy_unpads_normalizes_infers_in_the_library_of_the_observation(tmp_path, library, kind):
    pytest.importorskip(library)
    if kind == "own":

        class Own(Policy):
            def __init__(self):
                self.layer = Linear(4, 2)

            def forward(self, obs):
                return self.layer(obs).tanh()

        policy = register_policy(Own)()
    else:
        policy = kind(4, 2, [8], rng=rng())
    normalizer = normalizer_of(4)
    path = policy.save(tmp_path / "p", robot_config=robot_of(4, 2), normalizer=normalizer)
    state = rng(1).normal(size=(3, 4)).astype(np.float32)
    padded = np.concatenate((state, np.full((3, 60), 7.0, np.float32)), axis=1)  # padding must not matter
    expected = policy.forward(
        Tensor(((state - normalizer.mean) / np.sqrt(normalizer.var + normalizer.eps)).astype(np.float32))
    ).numpy()
    loaded = rfx.load_policy(path, robot_of(4, 2))
    for given_state in (padded, state):
        action = loaded({"state": rfx.observation.arrays.from_numpy(given_state, library)})
        assert rfx.observation.arrays.library(action) == library and tuple(action.shape) == (3, 2)
        np.testing.assert_allclose(rfx.observation.arrays.to_numpy(action), expected, atol=2e-6)


def test_a_policy_of_padded_width_is_given_the_padding_and_its_action_is_unpadded(tmp_path):
    policy = MLP(64, 64, [8], rng=rng())
    path = policy.save(tmp_path / "p", robot_config=robot_of(4, 2), normalizer=normalizer_of(4))
    obs = rfx.make_observation(rng().normal(size=(1, 4)), 4, 64)
    expected = policy(Tensor(normalizer_of(4).normalize(obs)["state"])).numpy()[:, :2]
    np.testing.assert_allclose(rfx.load_policy(path)(obs), expected, atol=2e-6)


def test_a_policy_for_another_robot_is_refused_with_what_differs(tmp_path):
    path = MLP(48, 12, [8], rng=rng()).save(tmp_path / "p", robot_config=GO2_CONFIG)
    other = RobotConfig.from_dict({**GO2_CONFIG.to_dict(), "control_freq_hz": 100.0, "name": "fast"})
    with pytest.raises(ValueError, match="not for robot 'fast'.*control_freq_hz: 50.0, the robot has 100.0"):
        rfx.load_policy(path, other)
    rfx.load_policy(path, GO2_CONFIG)
    with pytest.raises(ValueError, match="save it with robot_config"):
        rfx.load_policy(MLP(4, 2, []).save(tmp_path / "q"), GO2_CONFIG)


@pytest.mark.parametrize(
    "obs, kind, message",
    [
        (np.zeros((1, 64), np.float32), TypeError, "dictionary"),
        ({"images": 1}, TypeError, "'state'"),
        ({"state": np.zeros((1, 5), np.float32)}, ValueError, r"\(1, 5\); expected \(batch, 4 or 64\)"),
        ({"state": np.zeros(4, np.float32)}, ValueError, "batch"),
        ({"state": np.zeros((1, 4), np.int32)}, TypeError, "int32"),
        ({"state": [[0.0] * 4]}, TypeError, "list"),
        ({"state": np.full((1, 4), np.nan, np.float32)}, ValueError, "a state that is not finite"),
    ],
)
def test_a_wrong_observation_is_refused(tmp_path, obs, kind, message):
    path = MLP(4, 2, [3], rng=rng()).save(tmp_path / "p", robot_config=robot_of(4, 2))
    with pytest.raises(kind, match=message):
        rfx.load_policy(path)(obs)


# Saving


@pytest.mark.parametrize(
    "bundle, kind, message",
    [
        ({"normalizer": ObservationNormalizer(5)}, ValueError, "state_dim 5; expected 4"),
        ({"robot_config": robot_of(5, 2)}, ValueError, "width 4 for a robot_config of state_dim 5"),
        ({"robot_config": robot_of(4, 3)}, ValueError, "width 2 for a robot_config of action_dim 3"),
        ({"robot_config": {"name": "r"}}, TypeError, "RobotConfig"),
        ({"normalizer": {}}, TypeError, "ObservationNormalizer"),
        ({"training_info": {"a": [object()]}}, TypeError, r"training_info\['a'\]\[0\]"),
        ({"training_info": [1]}, TypeError, "Mapping"),
    ],
)
def test_a_bundle_that_does_not_fit_is_not_saved(tmp_path, bundle, kind, message):
    with pytest.raises(kind, match=message):
        MLP(4, 2, [3]).save(tmp_path / "p", **bundle)
    assert os.listdir(tmp_path) == []


def test_weights_that_are_not_finite_are_not_saved_and_the_old_policy_stays(tmp_path):
    policy = MLP(4, 2, [3], rng=rng())
    path = policy.save(tmp_path / "p")
    before = (path / WEIGHTS).read_bytes()
    policy.layers[0].bias.assign(Tensor([math.nan, 0.0, 0.0])).realize()
    with pytest.raises(ValueError, match="layers.0.bias"):
        policy.save(path)
    assert (path / WEIGHTS).read_bytes() == before


def test_saving_over_a_policy_replaces_it_whole(tmp_path):
    MLP(4, 2, [3]).save(tmp_path / "p", normalizer=normalizer_of(4))
    ActorCritic(5, 1, [3]).save(tmp_path / "p")
    assert rfx.inspect_policy(tmp_path / "p").policy_type == "ActorCritic" and os.listdir(tmp_path) == ["p"]
    assert sorted(os.listdir(tmp_path / "p")) == [WEIGHTS, CONFIG]


def test_files_of_others_are_not_lost(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="notes.txt"):
        MLP(4, 2, []).save(tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        MLP(4, 2, []).save(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine" and os.listdir(tmp_path) == ["notes.txt"]


def no_space(*arguments, **keywords):
    raise OSError(28, "No space left on device")


def no_exchange(*arguments, **keywords):
    """A C library without renameat2, as that of macOS."""
    return object()


@pytest.mark.parametrize(
    "broken",
    [
        "builtins.open",
        "rfx.system.folders.os.fsync",
        "rfx.system.folders.Path.mkdir",
        "rfx.system.folders._put_in_place",
    ],
)
def test_a_save_that_fails_at_any_step_leaves_the_old_policy(tmp_path, broken):
    path = replace_folder(tmp_path / "p", {"a": b"old", "b": b"old"})
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(broken, no_space)
        replace_folder(path, {"a": b"new", "b": b"new"})
    assert [(path / name).read_bytes() for name in "ab"] == [b"old", b"old"] and os.listdir(tmp_path) == ["p"]


def test_without_an_exchange_of_names_two_renames_do(tmp_path, monkeypatch):
    path = replace_folder(tmp_path / "p", {"a": b"old", "b": b"old"})
    monkeypatch.setattr("rfx.system.folders.ctypes.CDLL", no_exchange)
    replace_folder(path, {"a": b"new"}, obsolete=["b"])
    assert os.listdir(path) == ["a"] and os.listdir(tmp_path) == ["p"]
    rename = Path.rename
    monkeypatch.setattr(
        Path,
        "rename",
        lambda self, to: no_space() if to == path and not self.name.endswith("-old") else rename(self, to),
    )
    with pytest.raises(OSError, match="No space left"):
        replace_folder(path, {"a": b"newer"})
    assert (path / "a").read_bytes() == b"new" and os.listdir(tmp_path) == ["p"]


def test_a_writer_killed_at_any_moment_leaves_one_whole_version(tmp_path):
    path = replace_folder(tmp_path / "p", {"a": b"0", "b": b"0"})
    code = (
        "import itertools, sys; from rfx.system.folders import replace_folder\n"
        "for number in itertools.count(1): replace_folder(sys.argv[1], {name: b'%d' % number for name in 'ab'})"
    )
    for _ in range(4):
        changes, last = 0, path.stat().st_ino
        writer = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
        while changes < 20:
            newest = path.stat().st_ino  # this would raise if the name vanished for a moment
            changes, last = changes + (newest != last), newest
        writer.kill()
        writer.wait()
        assert (path / "a").read_bytes() == (path / "b").read_bytes()


# Damage


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Four policies to damage and to mix: two alike, one of another width, one of another class."""
    folder = tmp_path_factory.mktemp("originals")
    for number, (kind, width, hidden) in enumerate(
        [(MLP, 8, [16]), (MLP, 8, [16]), (MLP, 5, [4, 4]), (ActorCritic, 8, [16])]
    ):
        kind(width, 3, hidden, rng=rng(number)).save(
            folder / str(number),
            robot_config=robot_of(width, 3),
            normalizer=normalizer_of(width),
            training_info={"steps": 10},
        )
    return folder


FILES = (WEIGHTS, CONFIG, NORMALIZER)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10**30) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def sign(folder: Path) -> None:
    """Make the folder's own record of its files true again, so that what is wrong in them has to be found otherwise."""
    try:
        config = json.loads((folder / CONFIG).read_bytes() if (folder / CONFIG).is_file() else b"")
        for name in config["files"]:
            if (folder / name).is_file():
                config["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / CONFIG).write_text(json.dumps(config))
    except (ValueError, KeyError, TypeError):  # the record itself is what is damaged
        pass


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def clear(path: Path) -> Path:
    """Remove whatever is at path."""
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    return path


def damage(draw, folder: Path, originals: Path) -> None:
    """One random change to a policy folder; "remove" is what is left when nothing is written."""
    kind = draw(
        st.sampled_from(
            ["flip", "cut", "grow", "remove", "swap", "folder", "pipe", "json", "json", "weights", "header"]
        )
    )
    names = {"json": (CONFIG, CONFIG, NORMALIZER), "weights": (WEIGHTS,), "header": (WEIGHTS,)}.get(kind, FILES)
    target = folder / draw(st.sampled_from(names))
    data = target.read_bytes() if target.is_file() else b""
    clear(target)
    match kind:
        case "flip":
            data = bytearray(data)
            for position in draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=8)) if data else ():
                data[position] ^= 1 << draw(st.integers(0, 7))
            target.write_bytes(data)
        case "cut":
            target.write_bytes(data[: draw(st.integers(0, len(data)))])
        case "grow":
            target.write_bytes(data + draw(st.binary(min_size=1, max_size=64)))
        case "remove":
            pass
        case "swap":
            shutil.copy(originals / draw(st.sampled_from("0123")) / draw(st.sampled_from(FILES)), target)
        case "folder":
            target.mkdir()
        case "pipe":
            os.mkfifo(target)
        case "json":
            value = json.loads((originals / "0" / target.name).read_bytes())
            *path, last = draw(st.sampled_from([place for place in places(value) if place]))
            inner = value
            for key in path:
                inner = inner[key]
            if draw(st.booleans()):
                inner[last] = draw(json_values)
            else:
                del inner[last]
            target.write_text(json.dumps(value))
        case "weights":
            weights = safetensors.numpy.load_file(originals / "0" / WEIGHTS)
            name = draw(st.sampled_from(sorted(weights)))
            weights[name].flat[draw(st.integers(0, weights[name].size - 1))] = draw(
                st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38])
            )
            if draw(st.booleans()):
                weights[name] = np.clip(weights[name], -3.0, 3.0) * np.float32(draw(st.sampled_from([1e38, 1e20])))
            safetensors.numpy.save_file(weights, target)
        case "header":
            length = struct.unpack("<Q", (originals / "0" / WEIGHTS).read_bytes()[:8])[0]
            data = (originals / "0" / WEIGHTS).read_bytes()
            header = json.loads(data[8 : 8 + length])
            entry = header[draw(st.sampled_from(sorted(header)))]
            entry.update(
                draw(
                    st.fixed_dictionaries(
                        {},
                        optional={
                            "shape": st.lists(st.integers(0, 2**40), max_size=3),
                            "dtype": st.sampled_from(["F64", "F16", "BF16", "I64", "F8_E4M3", "X"]),
                            "data_offsets": st.lists(st.integers(0, 2**62), min_size=2, max_size=2),
                        },
                    )
                )
            )
            text = json.dumps(header).encode()
            claimed = draw(st.sampled_from([len(text), len(text), 2**63, 10**8]))
            target.write_bytes(struct.pack("<Q", claimed) + text + data[8 + length :])


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@pytest.fixture
def one_gigabyte():
    """No more than 1 GB of further memory can be taken."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + 2**30, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("num", [120, pytest.param(1000, marks=pytest.mark.long)])
def test_every_damaged_folder_is_refused_clearly_or_runs(tmp_path, originals, one_gigabyte, num):
    """Hundreds of them: bits, lengths, swapped files, JSON, weights and headers; signed anew or not; each within ten
    seconds.
    """
    counts = {"ran": 0, "refused": 0}

    @settings(
        max_examples=num, deadline=10_000, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def check(data):
        folder = tmp_path / "damaged"
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(originals / "0", folder)
        for _ in range(data.draw(st.integers(1, 2))):
            damage(data.draw, folder, originals)
        if data.draw(st.sampled_from([True, True, False])):
            sign(folder)
        state = {"state": rng(3).normal(size=(2, 8)).astype(np.float32)}
        try:
            loaded = rfx.load_policy(folder)
            Policy.load(folder)
        except (ValueError, FileNotFoundError) as error:
            assert str(folder) in str(error) and len(str(error)) > len(str(folder)) + 15, error
            counts["refused"] += 1
            return
        counts["ran"] += 1
        try:
            action = loaded(state)
        except ValueError as error:
            assert "expected" in str(error) or "finite" in str(error), error
            return
        assert action.shape == (2, 3) and np.isfinite(action).all()

    check()
    assert counts["refused"] > num / 2 and counts["ran"] > num / 50, counts


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_policy_of_the_same_shape_is_refused(tmp_path, originals, name):
    folder = Path(shutil.copytree(originals / "0", tmp_path / "p"))
    shutil.copy(originals / "1" / name, folder / name)
    if name == NORMALIZER:  # the same statistics in both: copy one that differs
        (folder / name).write_text(json.dumps(ObservationNormalizer(8).to_dict()))
    with pytest.raises(ValueError, match="not the file that rfx_config.json was saved with"):
        Policy.load(folder)


def test_constructor_arguments_that_do_not_fit_the_weights_take_no_memory(tmp_path, one_gigabyte):
    @register_policy
    class Wide(Policy):
        def __init__(self, width):
            self.layer = Linear(width, 2)

        def forward(self, obs):
            return self.layer(obs)

    for policy, argument in ((MLP(4, 2, [3]), "obs_dim"), (ActorCritic(4, 2, [3]), "act_dim"), (Wide(3), "width")):
        path = policy.save(tmp_path / type(policy).__name__)
        config = json.loads((path / CONFIG).read_text())
        config["arguments"][argument] = 10**9
        (path / CONFIG).write_text(json.dumps(config))
        with pytest.raises(ValueError, match="1000000000"):
            Policy.load(path)


def test_no_code_in_a_folder_is_run(tmp_path):
    path = MLP(4, 2, []).save(tmp_path / "p")
    (path / "rfx_plugin.py").write_text("raise SystemExit('run')")
    (path / "model.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.")
    Policy.load(path)
    assert not (path / "ran").exists()


def test_missing_folders_and_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a policy folder with rfx_config.json"):
        rfx.load_policy(tmp_path / "none")
    for name in FILES:
        path = MLP(4, 2, []).save(tmp_path / name / "p", normalizer=normalizer_of(4))
        (path / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            Policy.load(path)
