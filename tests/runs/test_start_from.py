"""A new run that begins with another's network: what it takes over, what not, and that it resumes as any run does."""

import signal

import numpy as np
import pytest
from rich.console import Console
from tiny_run import assert_same_run, finish, make_config, reference_run, refuse_to_tell, start

from train.runs.checkpoint import newest_checkpoint
from train.runs.run import train
from train.task.errors import InputError

OTHER_TASK = {"env.episode_length_s": 0.4, "seed": 7, "policy.initial_std": 0.3, "trainer.total_steps": 8 * 64}


@pytest.fixture(scope="module")
def reference():
    return reference_run()[0]


def last_state(folder):
    return newest_checkpoint(folder / "checkpoints", refuse_to_tell)[1]


@pytest.mark.e2e
def test_it_begins_with_the_network_and_normalizer_and_its_own_exploration(reference, tmp_path):
    frozen = {
        "ppo.learning_rate": 0.0,
        "ppo.desired_kl": None,
        "trainer.total_steps": 64,
    }  # one iteration that changes no weight
    folder = finish(tmp_path / "next", **OTHER_TASK | frozen, start_from=str(reference))
    before, after = last_state(reference), last_state(folder)
    names = [name for name in before if name.startswith("learner.policy.") and not name.endswith("log_std")]
    assert len(names) == 6 and [name for name in names if before[name].tobytes() != after[name].tobytes()] == []
    np.testing.assert_allclose(after["learner.policy.log_std"], np.log(0.3), rtol=1e-6)
    assert after["steps"] == 64 and after["normalizer"]["count"] == before["normalizer"]["count"] + 64
    assert "begins with the network of" in (tmp_path / "next.log").read_text()


@pytest.mark.e2e
def test_killed_it_goes_on_to_the_same_bits(reference, tmp_path):
    changed = OTHER_TASK | {"start_from": str(reference)}
    whole, killed = finish(tmp_path / "whole", **changed), tmp_path / "killed"
    process = start(killed, changed, kill_at=25)
    process.join()
    assert process.exitcode == -signal.SIGKILL and 0 < last_state(killed)["steps"] < 8 * 64
    finish(killed, **changed, resume=str(killed))
    assert_same_run(killed, whole)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"policy.hidden": [8]}, r"start_from=.*shape"),
        ({"policy.hidden": [16, 16]}, r"start_from=.*policy\.hidden"),
        ({"policy.critic": "privileged"}, r"start_from=.*policy\.critic"),
        ({"policy.activation": "elu"}, r"start_from=.*policy\.activation"),
        ({"start_from": "nowhere"}, "start_from=nowhere: it is no folder"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(reference, tmp_path, changed, message):
    with pytest.raises(InputError, match=message) as error:
        train(make_config(**{"start_from": str(reference)} | changed), tmp_path / "run", Console(quiet=True))
    assert "\n" not in str(error.value)
