"""The reader of configurations: plain values become dataclasses; what is wrong is said with its key, the value and what
is expected.
"""

import copy
import dataclasses
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from rfx.robot.config import RobotConfig
from rfx.robot.files import load_robot
from rfx.settings.reader import read, read_value, read_yaml


@dataclass(frozen=True, kw_only=True)
class Wheel:
    radius_m: float
    spokes: int = 8
    name: str = "wheel"


@dataclass(frozen=True, kw_only=True)
class Cart:
    """Something of every type that configurations have."""

    name: str
    wheels: tuple[Wheel, ...] = ()
    spare: Wheel | None = None
    size_m: tuple[float, float] = (1.0, 2.0)
    loads: tuple[int, ...] = ()
    fast: bool = False
    limits: Mapping[str, float] = field(default_factory=dict)
    terms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parts: Mapping[str, Wheel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name == "broken":
            raise ValueError("name is broken: it must be whole")


def test_nested_values_become_dataclasses_and_are_left_alone():
    values = {
        "name": "c",
        "wheels": [{"radius_m": 0.3}, {"radius_m": 1, "spokes": 4}],
        "spare": {"radius_m": 0.2},
        "size_m": [3, 4.5],
        "loads": [1, 2],
        "fast": True,
        "limits": {"vx": 1},
        "terms": {"tilt": {"weight": -2, "of": [1, 2]}},
        "parts": {"left": {"radius_m": 2.0}},
    }
    before = copy.deepcopy(values)
    assert read(Cart, values) == Cart(
        name="c",
        wheels=(Wheel(radius_m=0.3), Wheel(radius_m=1.0, spokes=4)),
        spare=Wheel(radius_m=0.2),
        size_m=(3.0, 4.5),
        loads=(1, 2),
        fast=True,
        limits={"vx": 1.0},
        terms={"tilt": {"weight": -2, "of": [1, 2]}},
        parts={"left": Wheel(radius_m=2.0)},
    )
    assert values == before
    assert read(Cart, {"name": "c"}) == Cart(name="c")


def test_numbers_pass_as_either_kind_where_nothing_is_lost():
    wheel = read(Wheel, {"radius_m": 1, "spokes": 1e3})
    assert wheel == Wheel(radius_m=1.0, spokes=1000) and type(wheel.radius_m) is float and type(wheel.spokes) is int
    assert read(Cart, {"name": "c", "loads": [1e6]}).loads == (1_000_000,)


@pytest.mark.parametrize(
    "values, said",
    [
        ({}, "cart.name is missing"),
        ({"name": 3}, "cart.name is 3: it must be text"),
        ({"name": None}, "cart.name is None: it must be text"),
        ({"name": "broken"}, "name is broken: it must be whole"),
        ({"name": "c", "wheel": []}, "unknown key 'cart.wheel': did you mean 'wheels'?"),
        (
            {"name": "c", "zzz": 1},
            "unknown key 'cart.zzz': possible are fast, limits, loads, name, parts, size_m, spare, terms, wheels",
        ),
        (
            {"name": "c", "wheels": [{"radius_m": 1.0}, {"radius": 1.0}]},
            "unknown key 'cart.wheels[1].radius': did you mean 'radius_m'?",
        ),
        ({"name": "c", "wheels": [{"radius_m": 1.0}, {}]}, "cart.wheels[1].radius_m is missing"),
        ({"name": "c", "wheels": [{"radius_m": "big"}]}, "cart.wheels[0].radius_m is 'big': it must be a number"),
        (
            {"name": "c", "wheels": [{"radius_m": 1.0, "spokes": 2.5}]},
            "cart.wheels[0].spokes is 2.5: it must be a whole number",
        ),
        (
            {"name": "c", "wheels": [{"radius_m": 1.0, "spokes": True}]},
            "cart.wheels[0].spokes is True: it must be a whole number",
        ),
        ({"name": "c", "wheels": 3}, "cart.wheels is 3: it must be a list of values"),
        ({"name": "c", "wheels": [3]}, "cart.wheels[0] is 3: it must be a group of keys"),
        ({"name": "c", "wheels": "abc"}, "cart.wheels is 'abc': it must be a list of values"),
        ({"name": "c", "spare": {"radius_m": 1.0, "name": 1}}, "cart.spare.name is 1: it must be text"),
        ({"name": "c", "spare": {"radius": 1.0}}, "unknown key 'cart.spare.radius': did you mean 'radius_m'?"),
        ({"name": "c", "spare": 3}, "cart.spare is 3: it must be a group of keys"),
        ({"name": "c", "loads": 3}, "cart.loads is 3: it must be a list of whole numbers"),
        ({"name": "c", "loads": [1, "x"]}, "cart.loads[1] is 'x': it must be a whole number"),
        ({"name": "c", "fast": "yes"}, "cart.fast is 'yes': it must be true or false"),
        ({"name": "c", "limits": {"vx": 1.0, "vy": "x"}}, "cart.limits.vy is 'x': it must be a number"),
        ({"name": "c", "terms": {"tilt": 3}}, "cart.terms.tilt is 3: it must be a group of keys"),
        ({"name": "c", "parts": {"left": {"radius_m": "x"}}}, "cart.parts.left.radius_m is 'x': it must be a number"),
    ],
)
def test_what_is_wrong_is_said(values, said):
    with pytest.raises(ValueError) as caught:
        read(Cart, values, "cart")
    assert str(caught.value) == said


@pytest.mark.parametrize("values", [3, [], "cart", None])
def test_what_is_no_group_of_keys(values):
    with pytest.raises(ValueError, match="cart is .*: it must be a group of keys"):
        read(Cart, values, "cart")
    with pytest.raises(ValueError, match="the configuration is .*: it must be a group of keys"):
        read(Cart, values)


def test_groups_of_named_groups_may_be_missing_or_null():
    assert read_value(Mapping[str, Wheel] | None, None, "parts") is None
    assert read_value(tuple[Wheel, ...] | None, [{"radius_m": 1}], "wheels") == (Wheel(radius_m=1.0),)


@dataclass(frozen=True, kw_only=True)
class Train:
    carts: Mapping[str, Wheel] | None = None
    wheels: tuple[Wheel, ...] | None = None


def test_what_may_be_missing_is_looked_into_where_it_is_there():
    assert read(Train, {"carts": {"a": {"radius_m": 1}}}) == Train(carts={"a": Wheel(radius_m=1.0)})
    for values, said in (
        ({"carts": {"a": {"radius": 1}}}, "unknown key 'carts.a.radius': did you mean 'radius_m'?"),
        ({"wheels": [{"radius": 1}]}, "unknown key 'wheels[0].radius': did you mean 'radius_m'?"),
    ):
        with pytest.raises(ValueError) as caught:
            read(Train, values)
        assert str(caught.value) == said


def test_the_wrong_number_of_entries_is_said_with_the_right_one():
    with pytest.raises(ValueError) as caught:
        read(Cart, {"name": "c", "size_m": [1.0, 2.0, 3.0]}, "cart")
    assert str(caught.value) == "cart.size_m is [1.0, 2.0, 3.0]: it must be a list of 2 numbers"


def test_one_value():
    assert read_value(float, 3, "weight") == 3.0 and read_value(tuple[float, float], [1, 2], "vx") == (1.0, 2.0)
    with pytest.raises(ValueError, match="^env.weight is 'x': it must be a number$"):
        read_value(float, "x", "env.weight")
    with pytest.raises(ValueError, match="^env.vx is 3: it must be a list of 2 numbers$"):
        read_value(tuple[float, float], 3, "env.vx")


def test_numbers_that_are_not_finite_are_left_to_the_class():
    """YAML has .inf and .nan; a class that must not have them says so itself."""
    assert read(Wheel, {"radius_m": math.inf}).radius_m == math.inf and math.isnan(
        read(Wheel, {"radius_m": math.nan}).radius_m
    )
    with pytest.raises(ValueError, match="radius_m is 1000.*: it must be a finite number"):
        read(Wheel, {"radius_m": 10**400})


def test_yaml(tmp_path):
    path = tmp_path / "values.yaml"
    path.write_text("a: {b: [1, 2.5, x, null, true]}\nc: &all {d: 1}\ne: {<<: *all, f: 2}\n")
    assert read_yaml(path) == {"a": {"b": [1, 2.5, "x", None, True]}, "c": {"d": 1}, "e": {"d": 1, "f": 2}}
    for content in (b"a: [", b"\xff\xfe\x00", b"a: !!python/object/apply:os.getcwd []"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a YAML file: "):
            read_yaml(path)
    path.write_bytes(b"[" * 1000)
    limit = sys.getrecursionlimit()  # tinygrad raises it to 10,000, which the parser takes ten seconds to reach
    sys.setrecursionlimit(1000)
    try:
        with pytest.raises(ValueError, match="not a YAML file: maximum recursion depth exceeded"):
            read_yaml(path)
    finally:
        sys.setrecursionlimit(limit)
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "absent.yaml")


TWICE = "name: x\njoints:\n  - {name: a, kp: 1.0}\n  - name: b\n    kp: 2.0\n    'kp': 3.0\n"


def test_a_key_that_stands_twice_is_refused_with_its_file_and_lines(tmp_path):
    """YAML's own reader takes the last. The same key in another mapping, or laid over a merged one, is no second."""
    path = tmp_path / "robot.yaml"
    path.write_text(TWICE)
    for reader in (read_yaml, RobotConfig.from_yaml, load_robot):
        with pytest.raises(ValueError, match=r"robot.yaml: .*'kp'.* 5 and 6") as error:
            reader(path)
        assert "\n" not in str(error.value) and str(error.value).count("robot.yaml") == 1
    path.write_text(
        "a: &all {x: 1, y: 2}\nb: {<<: *all, x: 3}\nc: {<<: [*all], <<: *all}\nd: [{x: 1}, {x: 2}]\n1: one\n'1': text\n"
    )
    assert read_yaml(path) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 2},
        "c": {"x": 1, "y": 2},
        "d": [{"x": 1}, {"x": 2}],
        1: "one",
        "1": "text",
    }


def test_reading_needs_no_yaml_library_until_a_file_is_read():
    code = "import sys, rfx.settings.reader; rfx.settings.reader.read_value(int, 1.0, ''); print('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_every_field_can_be_given_by_its_own_name():
    for item in dataclasses.fields(Wheel):
        value = {"radius_m": 0.5, "spokes": 5, "name": "n"}[item.name]
        assert getattr(read(Wheel, {"radius_m": 0.1, item.name: value}), item.name) == value
