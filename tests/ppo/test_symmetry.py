"""How the weights of a symmetric policy mirror: entry by entry, worked out from what a mirror image is, on both
paths.
"""

import numpy as np
import pytest
from tinygrad import Tensor

from rfx.system.compiler import ensure_compiler
from train.ppo.symmetry import Symmetry

ensure_compiler()  # for tinygrad by itself

# Three observations: the first two change places, the third changes its sign. Two actions: they change places and
# signs.
OBSERVATION = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]], np.float32)
ACTION = np.array([[0, -1], [-1, 0]], np.float32)
HISTORY, HIDDEN = 2, [4, 2]
SHAPES = {
    "backbone.0.weight": (4, 6),
    "backbone.0.bias": (4,),
    "backbone.1.weight": (2, 4),
    "backbone.1.bias": (2,),
    "actor_head.weight": (2, 2),
    "actor_head.bias": (2,),
    "critic_head.weight": (1, 2),
    "critic_head.bias": (1,),
    "log_std": (2,),
    "critic.0.weight": (5, 7),
}


def image(name, w):
    """The mirror image of a parameter: unit i of a hidden layer is the image of unit i + half of it, and i - half."""
    inputs, signs = [1, 0, 2, 4, 3, 5], np.array([1, 1, -1, 1, 1, -1], np.float32)  # of two observations side by side
    return {
        "backbone.0.weight": lambda: w[[2, 3, 0, 1]][:, inputs] * signs,
        "backbone.0.bias": lambda: w[[2, 3, 0, 1]],
        "backbone.1.weight": lambda: w[[1, 0]][:, [2, 3, 0, 1]],
        "backbone.1.bias": lambda: w[[1, 0]],
        "actor_head.weight": lambda: -w[[1, 0]][:, [1, 0]],
        "actor_head.bias": lambda: -w[[1, 0]],
        "critic_head.weight": lambda: w[:, [1, 0]],
        "log_std": lambda: w[[1, 0]],
    }.get(name, lambda: w)()


def values(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def symmetry():
    return Symmetry(OBSERVATION, ACTION, HIDDEN, HISTORY)


@pytest.mark.parametrize("name", SHAPES)
def test_a_symmetric_gradient_is_the_mean_of_it_and_its_image(symmetry, name):
    for seed in range(2):
        given = values(seed)[name]
        made = symmetry.gradient(name, Tensor(given)).numpy()
        assert made == pytest.approx((given + image(name, given)) / 2, abs=1e-7) and made.dtype == np.float32


def test_the_kernel_makes_all_of_them_at_once(symmetry):
    given = values()
    call, means = symmetry.bind(given)
    for seed in (1, 2):  # it reads the arrays when it is called
        for name, array in values(seed).items():
            given[name][...] = array
        call()
        for name, array in values(seed).items():
            np.testing.assert_array_equal(means[name], (array + image(name, array)) * np.float32(0.5), err_msg=name)
            np.testing.assert_array_equal(given[name], array, err_msg=name)
    assert list(means) == list(SHAPES) and all(
        means[name] is given[name] for name in ("critic.0.weight", "critic_head.bias")
    )


def test_a_matrix_of_several_blocks_is_mirrored_throughout():
    """16,384 weights, 4,096 at a time."""
    symmetry, rng = Symmetry(OBSERVATION, ACTION, [128, 128]), np.random.default_rng(0)
    given = rng.standard_normal((128, 128)).astype(np.float32)
    call, means = symmetry.bind({"backbone.1.weight": given})
    call()
    np.testing.assert_array_equal(
        means["backbone.1.weight"], (given + np.roll(given, (64, 64), (0, 1))) * np.float32(0.5)
    )


@pytest.mark.parametrize("name", SHAPES)
def test_initial_weights_are_their_own_image_and_half_of_them_as_they_were(symmetry, name):
    given = values()[name]
    made = symmetry.initial(name, given)
    np.testing.assert_array_equal(made, image(name, made))
    assert made.dtype == np.float32
    if name in ("critic.0.weight", "critic_head.bias"):
        assert made is given
    elif name in ("actor_head.bias", "log_std"):
        np.testing.assert_allclose(made, (given + image(name, given)) / 2, rtol=1e-6)
    elif name.startswith("backbone"):
        np.testing.assert_array_equal(made[: len(given) // 2], given[: len(given) // 2])
    else:
        np.testing.assert_array_equal(made[:, :1], given[:, :1])


def test_without_a_history_one_observation_is_read():
    given = np.arange(12, dtype=np.float32).reshape(4, 3)
    made = Symmetry(OBSERVATION, ACTION, [4]).gradient("backbone.0.weight", Tensor(given)).numpy()
    np.testing.assert_array_equal(made, (given + given[[2, 3, 0, 1]][:, [1, 0, 2]] * [1, 1, -1]) / 2)


def test_a_hidden_layer_of_odd_width_is_refused_with_what_to_do():
    with pytest.raises(
        ValueError,
        match=r"^got hidden layers of \[4, 3\] units; expected even numbers: each unit of a symmetric policy has a mirror "
        "image$",
    ):
        Symmetry(OBSERVATION, ACTION, (4, 3))
