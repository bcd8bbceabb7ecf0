"""The one reader of configurations: what it takes, and what it says of what it does not take."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from rfx.reader import join, read, read_value, read_yaml


@dataclass(frozen=True, kw_only=True)
class Wheel:
    name: str
    radius_m: float = 0.1
    spokes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.radius_m <= 0:
            raise ValueError(f"wheel {self.name!r}: got radius_m {self.radius_m}; expected more than 0")


@dataclass(frozen=True, kw_only=True)
class Cart:
    name: str
    num_seats: int = 2
    mass_kg: float = 10.0
    painted: bool = False
    wheels: tuple[Wheel, ...] = ()
    spare: Wheel | None = None
    size_m: tuple[float, float] = (1.0, 2.0)
    loads: Mapping[str, float] = field(default_factory=dict)
    axles: Mapping[str, Wheel] = field(default_factory=dict)
    notes: Sequence[str] = ()
    extras: dict[str, Any] = field(default_factory=dict)


def said(values: Any, key: str = "cart") -> str:
    """What is wrong with values."""
    with pytest.raises(ValueError) as error:
        read(Cart, values, key)
    return str(error.value)


def test_everything_that_is_said_is_read_and_the_rest_has_its_default():
    values = {"name": "c", "num_seats": 4, "painted": True, "wheels": [{"name": "a", "spokes": [3, 4]}, {"name": "b", "radius_m": 1}],
              "spare": {"name": "s"}, "size_m": [1, 2.5], "loads": {"hay": 3}, "axles": {"rear": {"name": "r"}}, "notes": ["old"],
              "extras": {"anything": [1, {"at": "all"}]}}
    cart = read(Cart, values)
    assert cart == Cart(name="c", num_seats=4, painted=True, wheels=(Wheel(name="a", spokes=(3, 4)), Wheel(name="b", radius_m=1.0)),
                        spare=Wheel(name="s"), size_m=(1.0, 2.5), loads={"hay": 3.0}, axles={"rear": Wheel(name="r")}, notes=["old"],
                        extras={"anything": [1, {"at": "all"}]})
    assert read(Cart, {"name": "c"}) == Cart(name="c")
    assert isinstance(cart.wheels, tuple) and isinstance(cart.wheels[0].spokes, tuple)


def test_what_is_read_is_left_as_it_is():
    values = {"name": "c", "num_seats": 4.0, "wheels": [{"name": "a", "radius_m": 1.0}], "extras": {"deep": [2.0]}}
    before = repr(values)
    read(Cart, values)
    assert repr(values) == before


@pytest.mark.parametrize(("values", "message"), [
    ({"name": "c", "num_seat": 4}, "unknown key 'cart.num_seat': did you mean 'num_seats'?"),
    ({"name": "c", "spare": {"name": "s", "radius": 1}}, "unknown key 'cart.spare.radius': did you mean 'radius_m'?"),
    ({"name": "c", "wheels": [{"name": "a"}, {"name": "b", "spoke": []}]}, "unknown key 'cart.wheels[1].spoke': did you mean 'spokes'?"),
    ({"name": "c", "zzz": 1}, "unknown key 'cart.zzz': possible are axles, extras, loads, mass_kg, name, notes, num_seats, painted, size_m, "
                              "spare, wheels"),
])
def test_an_unknown_key_is_named_with_the_nearest(values, message):
    assert said(values) == message


def test_without_a_place_keys_stand_by_themselves():
    assert said({"name": "c", "num_seat": 4}, key="") == "unknown key 'num_seat': did you mean 'num_seats'?"
    assert said({"name": "c", "num_seats": "two"}, key="") == "num_seats is 'two': it must be a whole number"
    assert said([], key="") == "the configuration is []: it must be a group of keys"
    assert (join("", "a"), join("a.b", "c"), join("a", 1)) == ("a", "a.b.c", "a.1")


@pytest.mark.parametrize(("values", "message"), [
    ({}, "cart.name is missing"),
    ({"name": "c", "spare": {}}, "cart.spare.name is missing"),
    ({"name": "c", "wheels": [{"name": "a"}, {}]}, "cart.wheels[1].name is missing"),
])
def test_a_missing_key_is_named(values, message):
    assert said(values) == message


@pytest.mark.parametrize(("changed", "message"), [
    ({"name": 5}, "cart.name is 5: it must be text"),
    ({"num_seats": "two"}, "cart.num_seats is 'two': it must be a whole number"),
    ({"num_seats": 2.5}, "cart.num_seats is 2.5: it must be a whole number"),
    ({"num_seats": True}, "cart.num_seats is True: it must be a whole number"),
    ({"num_seats": None}, "cart.num_seats is None: it must be a whole number"),
    ({"mass_kg": "1e-3 kg"}, "cart.mass_kg is '1e-3 kg': it must be a number"),
    ({"mass_kg": False}, "cart.mass_kg is False: it must be a number"),
    ({"painted": "yes"}, "cart.painted is 'yes': it must be true or false"),
    ({"painted": 1}, "cart.painted is 1: it must be true or false"),
    ({"wheels": "four"}, "cart.wheels is 'four': it must be a list of values"),
    ({"wheels": [{"name": "a"}, 7]}, "cart.wheels[1] is 7: it must be a group of keys"),
    ({"wheels": [{"name": "a", "spokes": [1, 2, "x"]}]}, "cart.wheels[0].spokes[2] is 'x': it must be a whole number"),
    ({"spare": 3}, "cart.spare is 3: it must be a group of keys"),
    ({"size_m": 1.0}, "cart.size_m is 1.0: it must be a list of 2 numbers"),
    ({"size_m": [1.0, 2.0, 3.0]}, "cart.size_m is [1.0, 2.0, 3.0]: it must be a list of 2 numbers"),
    ({"size_m": [1.0, None]}, "cart.size_m[1] is None: it must be a number"),
    ({"loads": [1]}, "cart.loads is [1]: it must be a group of keys"),
    ({"loads": {"hay": 1, "straw": "much"}}, "cart.loads.straw is 'much': it must be a number"),
    ({"axles": {"front": {"name": "f"}, "rear": {"name": 4}}}, "cart.axles.rear.name is 4: it must be text"),
    ({"notes": ["a", 2]}, "cart.notes[1] is 2: it must be text"),
    ({"mass_kg": 10 ** 400}, None),
])
def test_a_wrong_type_says_key_value_and_what_is_expected(changed, message):
    text = said({"name": "c"} | changed)
    if message is None:
        assert text.startswith("cart.mass_kg is 1000") and text.endswith("it must be a finite number") and len(text) < 120
    else:
        assert text == message


@pytest.mark.parametrize("value", [4, 4.0, 4e0])
def test_whole_floats_are_whole_numbers_and_whole_numbers_floats(value):
    cart = read(Cart, {"name": "c", "num_seats": value, "mass_kg": value, "wheels": [{"name": "a", "spokes": [value]}]})
    assert (type(cart.num_seats), type(cart.mass_kg), type(cart.wheels[0].spokes[0])) == (int, float, int)
    assert cart.num_seats == cart.mass_kg == cart.wheels[0].spokes[0] == 4


def test_optional_values_may_be_null():
    assert read(Cart, {"name": "c", "spare": None}).spare is None
    assert read(Cart, {"name": "c", "spare": {"name": "s", "radius_m": 2}}).spare == Wheel(name="s", radius_m=2.0)
    assert read_value(float | None, None, "x") is None and read_value(float | None, 3, "x") == 3.0
    with pytest.raises(ValueError, match=r"^x is 'a': it must be a number$"):
        read_value(float | None, "a", "x")


def test_what_the_class_itself_refuses_is_said_as_it_says_it():
    assert "wheel 'b': got radius_m -1.0; expected more than 0" in said({"name": "c", "wheels": [{"name": "a"}, {"name": "b", "radius_m": -1}]})


def test_infinite_numbers_reach_the_class():
    """YAML has .inf and .nan: whether one is meant is for the class to say."""
    assert read(Cart, {"name": "c", "mass_kg": math.inf}).mass_kg == math.inf
    assert math.isnan(read(Cart, {"name": "c", "mass_kg": math.nan}).mass_kg)
    assert "cart.num_seats is inf" in said({"name": "c", "num_seats": math.inf})


def test_one_value_is_read_by_its_type():
    assert read_value(tuple[float, float], [1, 2], "range") == (1.0, 2.0)
    with pytest.raises(ValueError, match=r"^env\.range is \[1\]: it must be a list of 2 numbers$"):
        read_value(tuple[float, float], [1], "env.range")


def test_every_field_of_every_type_of_value_gives_one_of_these_messages():
    """Whatever stands where: a value is taken, or refused by a ValueError that names its key."""
    odd = [None, True, -1, 0.5, "text", "", [], [[]], [{}], {}, {"a": {"b": []}}, [1, "x"], math.nan, 10 ** 30]
    for item in dataclasses.fields(Cart):
        for value in odd:
            try:
                read(Cart, {"name": "c"} | {item.name: value}, "cart")
            except ValueError as error:
                assert str(error).startswith((f"cart.{item.name}", f"unknown key 'cart.{item.name}", "wheel '")), (item.name, value)


def test_yaml(tmp_path):
    path = tmp_path / "cart.yaml"
    path.write_text("name: c  # a comment\nnum_seats: 1_000\nwheels: [{name: ä}]\n", encoding="utf-8")
    assert read(Cart, read_yaml(path)) == Cart(name="c", num_seats=1000, wheels=(Wheel(name="ä"),))
    for broken in (b"name: [c\n", b"name: \xff\xfe\n", b"- " * 20_000):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"^not a YAML file: "):
            read_yaml(path)
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "none.yaml")


def test_yaml_runs_no_code(tmp_path):
    path = tmp_path / "cart.yaml"
    path.write_text(f"name: !!python/object/apply:os.system ['touch {tmp_path / 'run'}']\n")
    with pytest.raises(ValueError, match="not a YAML file"):
        read_yaml(path)
    assert not (tmp_path / "run").exists()
