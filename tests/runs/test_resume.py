"""A run that was killed goes on to the same bits; a seed gives the same bits at any number of threads; what may differ
on resuming.
"""

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_run import TINY, assert_same_run, cpu_s, events, finish, make_config, reference_run, refuse_to_tell, start

from envs.legged.env import LeggedEnv
from train.runs.checkpoint import checkpoints, newest_checkpoint
from train.runs.fingerprint import fingerprint
from train.runs.lock import sole_process
from train.runs.resume import changes, find_run, load_run, read_record, values_of
from train.task.errors import InputError


@pytest.fixture(scope="module")
def reference() -> Path:
    return reference_run()[0]


@pytest.mark.e2e
@pytest.mark.parametrize("num", [8, pytest.param(20, marks=pytest.mark.long)])
def test_kills_at_random_moments_change_no_bit(reference, tmp_path, num):
    """Every other one strikes while something is forced to disk: mostly in the midst of a checkpoint.

    The others by the run's own CPU time, which a busy machine does not stretch.
    """
    moment, duration = random.Random(6), reference_run()[1]
    kills, runs, last = 0, 0, None
    while kills < num or last:
        folder = last or tmp_path / str(runs)
        striking = kills < num
        at_disk = striking and kills % 2
        process = start(folder, {"resume": str(folder)} if last else {}, moment.randint(1, 60) if at_disk else 0)
        if striking and not at_disk:
            strike_s = moment.uniform(0.0, duration)
            while process.is_alive() and cpu_s(process) < strike_s:
                time.sleep(0.002)
            process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        kills += process.exitcode == -signal.SIGKILL
        finished = read_record(folder).get(
            "finished", False
        )  # a kill can also strike between the end of the run and that of its process
        assert finished or process.exitcode
        last = None if finished else folder
        if finished:
            assert_same_run(folder, reference)
            runs += 1
    assert kills >= num and runs >= 1


@pytest.mark.e2e
def test_the_command_line_stops_on_sigterm_and_goes_on_with_latest(reference, tmp_path):
    command = [
        sys.executable,
        "-m",
        "train",
        "+robot=go2",
        *(f"{key}={json.dumps(value).replace(' ', '')}" for key, value in TINY.items()),
    ]
    root = Path(__file__).parents[2]
    place = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(root), "PYTHONHASHSEED": "1"}, "text": True}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **place)
    while not list(tmp_path.glob("runs/*/checkpoints/0*[1-9]*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output = process.communicate()[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    (folder,) = tmp_path.glob("runs/*")
    stopped = int(checkpoints(folder / "checkpoints")[-1].name)
    assert (
        0 < stopped < 24 * 64
        and json.loads((folder / "result.json").read_text())["steps"] == stopped
        and "resume=" in output
    )
    refused = subprocess.run([*command[:3], "resume=latest", "env.num_envs=16"], capture_output=True, **place)
    assert refused.returncode == 2 and "env.num_envs was 8, is 16" in refused.stderr and refused.stderr.count("\n") == 1
    place["env"]["PYTHONHASHSEED"] = "2"
    (said,) = (line.partition("python -m ")[2] for line in output.splitlines() if line.startswith("go on"))
    resumed = subprocess.run([*command[:2], *said.split()], capture_output=True, **place)  # no setting is given again
    assert resumed.returncode == 0, resumed.stderr
    assert list(tmp_path.glob("runs/*")) == [folder]
    assert_same_run(folder, reference)
    assert read_record(folder)["resumed"][0]["steps"] == stopped
    again = subprocess.run([*command, "resume=latest"], capture_output=True, **place)
    assert again.returncode == 2 and "finished" in again.stderr


@pytest.mark.e2e
@pytest.mark.parametrize("changed", [{}, {"threads": 1}, {"threads": 2}, {"trainer.checkpoint_every": 64}])
def test_the_same_seed_gives_the_same_bits(reference, tmp_path, changed):
    folder = finish(tmp_path / "run", **changed)
    assert read_record(folder)["fingerprint"] == read_record(reference)["fingerprint"]
    assert events(folder) == events(reference)


def test_evaluating_during_training_changes_nothing_of_it(reference, tmp_path):
    folder = finish(tmp_path / "run", **{"trainer.evaluate_every": 10**9})
    assert read_record(folder)["fingerprint"] == read_record(reference)["fingerprint"]


def test_another_seed_gives_other_weights(reference, tmp_path):
    folder = finish(tmp_path / "run", seed=1)
    assert read_record(folder)["fingerprint"] != read_record(reference)["fingerprint"]


@pytest.mark.e2e
def test_wide_networks_give_the_same_bits_at_any_number_of_threads(tmp_path):
    """Sizes at which kernels and physics are split between threads."""
    wide = {
        "env.num_envs": 128,
        "policy.hidden": [256, 256],
        "trainer.rollout_steps": 24,
        "trainer.total_steps": 4 * 128 * 24,
    }
    folders = [finish(tmp_path / str(threads), threads=threads, **wide) for threads in (1, 2)]
    first, second = (read_record(folder)["fingerprint"] for folder in folders)
    assert first == second and events(folders[0]) == events(folders[1])


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_default_size_gives_the_same_bits_after_kills_and_at_any_number_of_threads(tmp_path):
    size = {
        "env.num_envs": 1024,
        "env.episode_length_s": 20.0,
        "env.command_interval_s": [3.0, 8.0],
        "policy.hidden": [256, 256],
        "ppo.num_epochs": 5,
        "ppo.num_minibatches": 4,
        "trainer.rollout_steps": 24,
        "trainer.total_steps": 10 * 24576,
        "trainer.evaluate_every": 4 * 24576,
        "trainer.checkpoint_every": 24576,
    }
    folders = [finish(tmp_path / str(threads), threads=threads, **size) for threads in (1, 2)]
    print("\n", *(read_record(folder)["fingerprint"] for folder in folders))
    assert_same_run(*folders)
    killed, reached = tmp_path / "killed", 0
    for _ in range(3):
        process = start(killed, size | {"resume": str(killed)} if reached else size)
        while (
            process.is_alive()
            and max((int(path.name) for path in checkpoints(killed / "checkpoints")), default=0) <= reached + 24576
        ):
            time.sleep(0.05)
        process.kill()
        process.join()
        reached = int(checkpoints(killed / "checkpoints")[-1].name)
    assert 3 * 24576 < reached < 10 * 24576
    finish(killed, resume=str(killed), **size)
    assert_same_run(killed, folders[0])


def test_the_record_says_what_the_weights_depend_on(reference):
    record = read_record(reference)
    assert (
        record["finished"] and record["seed"] == 0 and record["steps"] == 24 * 64 and len(record["fingerprint"]) == 64
    )
    assert (
        record["mujoco"]
        and record["numpy"] == np.__version__
        and record["python"] in sys.version
        and "processor" in record
    )
    assert record["config"]["policy.hidden"] == [16]


def test_a_damaged_newest_checkpoint_is_told_of_and_the_one_before_gives_the_same_run(reference, tmp_path):
    folder = tmp_path / "run"
    process = start(folder, {})
    while len(checkpoints(folder / "checkpoints")) < 2 or not int(checkpoints(folder / "checkpoints")[-1].name):
        time.sleep(0.01)
    process.kill()
    process.join()
    damaged = checkpoints(folder / "checkpoints")[-1]
    file = damaged / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    told = []
    state, _ = load_run(make_config(resume=str(folder)), folder, 24 * 64, told.append)
    assert state["steps"] < int(damaged.name) and str(damaged) in told[0]
    finish(folder, resume=str(folder))
    assert_same_run(folder, reference)


def test_a_changed_configuration_is_refused_with_the_difference():
    was = values_of(make_config())
    with pytest.raises(InputError) as error:
        changes(was, make_config(**{"ppo.learning_rate": 5e-4, "policy.hidden": [32]}))
    assert all(
        text in str(error.value)
        for text in ("ppo.learning_rate was 0.001, is 0.0005", "ppo.learning_rate=0.001", "policy.hidden=[16]")
    )
    assert changes(was, make_config(**{"ppo.learning_rate": 5e-4}, resume_overrides=True)) == {
        "ppo.learning_rate": [1e-3, 5e-4]
    }
    assert changes(was, make_config(threads=1, resume="latest", **{"trainer.keep_checkpoints": 9})) == {}
    with pytest.raises(InputError, match="seed was 0, is 1: .*cannot change"):
        changes(was, make_config(seed=1, resume_overrides=True))


def test_a_checkpoint_of_before_there_were_activations_is_one_of_tanh():
    was = {
        key: value
        for key, value in values_of(make_config()).items()
        if key not in ("policy.activation", "policy.critic_hidden", "policy.network", "policy.network_kwargs")
    }
    assert changes(was, make_config()) == {}
    with pytest.raises(InputError, match="policy.activation"):
        changes(was, make_config(**{"policy.activation": "elu"}, resume_overrides=True))


def test_an_accepted_change_takes_effect_and_is_recorded(reference, tmp_path):
    folder = finish(tmp_path / "run")
    changed = {"trainer.total_steps": 32 * 64, "ppo.learning_rate": 1e-5, "ppo.desired_kl": None}
    finish(folder, resume=str(folder), resume_overrides=True, **changed)
    record = read_record(folder)
    assert record["steps"] == 32 * 64 and record["resumed"][0]["changed"] == {
        "ppo.desired_kl": [0.02, None],
        "ppo.learning_rate": [1e-3, 1e-5],
        "trainer.total_steps": [24 * 64, 32 * 64],
    }
    rates = {step: struct.pack("<f", float(value)) for step, tag, value in events(folder) if tag == "ppo/learning_rate"}
    assert (
        list(rates) == [64 * (i + 1) for i in range(32)] and rates[32 * 64] == struct.pack("<f", 1e-5) != rates[24 * 64]
    )


@pytest.mark.e2e
def test_a_run_that_breaks_stops_and_keeps_the_last_checkpoint_that_was_sound(tmp_path):
    folder = finish(tmp_path / "run")
    weights = read_record(folder)["fingerprint"]
    changed = {"resume": str(folder), "resume_overrides": True, "trainer.total_steps": 48 * 64}
    rewards = {"tilt": {"weight": 1e25}}  # finite, and its square is not
    process = start(folder, changed | {"env.rewards": rewards})
    process.join()
    assert process.exitcode == 1 and "largest reward term: reward/tilt" in Path(f"{folder}.log").read_text()
    assert (folder / "offending_batch" / "rollout.safetensors").is_file() and not read_record(folder)["finished"]
    path, state = newest_checkpoint(folder / "checkpoints", refuse_to_tell)
    assert state["steps"] == 24 * 64 and state["skipping"] == 0 and read_record(folder)["fingerprint"] == weights
    finish(folder, **changed)
    assert read_record(folder)["steps"] == 48 * 64


def test_model_fields_that_differ_between_simulations_are_part_of_the_state():
    def make_env() -> LeggedEnv:
        env = LeggedEnv(6, task="go2", threads=1)
        env.reset(seed=0)
        return env

    def play(env) -> bytes:
        rng = np.random.default_rng(0)
        return b"".join(
            env.step(rng.uniform(-1, 1, (6, 12)).astype(np.float32))[0]["state"].tobytes() for _ in range(20)
        )

    env, plain = make_env(), make_env()
    env.simulation.batch.expand("body_mass")[...] *= np.linspace(0.8, 1.5, 6)[:, None]
    play(env)
    saved = env.state_dict()
    after = play(env)
    plain.load_state_dict(saved)
    assert play(plain) == after
    plain.simulation.batch.expand("body_mass")[...] = env.simulation.model.body_mass
    plain.load_state_dict({name: value for name, value in saved.items()})
    assert play(plain) == after
    with pytest.raises(ValueError, match="env.num_envs"):
        LeggedEnv(5, task="go2").load_state_dict(saved)
    with pytest.raises(ValueError, match="joint_torque"):
        plain.load_state_dict({name: value for name, value in saved.items() if name != "joint_torque"})


def test_resume_finds_the_newest_run_and_explains_what_it_cannot(reference, tmp_path):
    for name in ("old", "new"):
        (tmp_path / name / "checkpoints" / "000000000064").mkdir(parents=True)
    os.utime(tmp_path / "old" / "checkpoints" / "000000000064", (1, 1))
    for name in ("0", "1/first"):  # younger, and of a sweep
        (tmp_path / "sweep" / name / "checkpoints" / "000000000064").mkdir(parents=True)
        os.utime(tmp_path / "sweep" / name / "checkpoints" / "000000000064", (2**33, 2**33))
    (tmp_path / "sweep" / "multirun.yaml").touch()
    assert (
        find_run("latest", tmp_path) == tmp_path / "new"
        and find_run(str(tmp_path / "old"), tmp_path) == tmp_path / "old"
    )
    (tmp_path / "none").mkdir()
    for given, words in (
        ("latest", "no run under"),
        (str(tmp_path / "none"), "holds no run"),
        (str(tmp_path / "absent"), "is no folder"),
        (str(tmp_path / "old" / "checkpoints" / "000000000064"), "one checkpoint"),
    ):
        with pytest.raises(InputError, match=words):
            find_run(given, tmp_path / "none" if given == "latest" else tmp_path)
    with pytest.raises(InputError, match="finished"):
        load_run(make_config(resume=str(reference)), reference, 24 * 64, print)
    with pytest.raises(InputError, match="an earlier run"):
        load_run(make_config(), reference, 24 * 64, print)


def test_two_processes_do_not_train_into_one_folder(tmp_path):
    with sole_process(tmp_path):
        with pytest.raises(InputError, match="another process"):
            with sole_process(tmp_path):
                pass
    with sole_process(tmp_path):
        pass


def test_fingerprints_differ_for_a_bit_a_name_a_type_and_a_shape():
    base = {"a": np.zeros((2, 3), np.float32), "b": np.ones(4)}
    others = [
        {"a": base["a"]},
        base | {"a": -base["a"]},
        base | {"a": base["a"].reshape(3, 2)},
        base | {"a": base["a"].astype(np.int32)},
        {"c": base["a"], "b": base["b"]},
    ]
    assert len({fingerprint(arrays) for arrays in [base, *others]}) == 6
    assert fingerprint(dict(reversed(base.items()))) == fingerprint(base)
