"""Models of MuJoCo Menagerie by name: from the folder MENAGERIE_ROOT, as its package finds them where there is no
network.
"""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import mujoco
import numpy as np
import pytest
import yaml

import rfx
from rfx.check import check_robot
from rfx.check.finding import MISTAKE
from rfx.commands.cli import main
from rfx.drivers.mjcf import load_model
from rfx.robot.files import ASSETS, find_mjcf, load_robot

ROOT = ASSETS.parent
GO1 = load_robot("go1")


@pytest.fixture
def menagerie(tmp_path, monkeypatch) -> Path:
    """A Menagerie with one robot, a heavier Go1 of another author: no sites, floor or camera, feet of other names."""
    pytest.importorskip("mujoco_menagerie", reason="needs the extra menagerie")
    tree = ElementTree.parse(ASSETS / "go1" / "go1.xml")
    world = tree.getroot().find("worldbody")
    for child in [child for child in world if child.tag != "body"]:
        world.remove(child)
    for parent in list(tree.iter()):
        for child in [child for child in parent if child.tag == "site"]:
            parent.remove(child)
    for geom in tree.iter("geom"):
        if geom.get("name", "").endswith("_foot"):
            geom.set("name", geom.get("name").removesuffix("_foot"))
    world.find("body/inertial").set("mass", "6.204")
    folder = tmp_path / "menagerie" / "unitree_go1"
    folder.mkdir(parents=True)
    tree.write(folder / "go1.xml")
    (folder / "scene.xml").write_text(
        '<mujoco><include file="go1.xml"/><worldbody><geom name="floor" type="plane" size="0 0 1"/></worldbody></mujoco>'
    )
    monkeypatch.setenv("MENAGERIE_ROOT", str(folder.parent))
    return folder


def mass_kg(model: mujoco.MjModel) -> float:
    return model.body_mass.sum()


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, timeout=240, env=environment
    )


def test_a_name_means_the_robot_alone_or_another_of_its_files(menagerie):
    assert find_mjcf(GO1, "menagerie:unitree_go1") == menagerie / "go1.xml"
    assert find_mjcf(GO1, "menagerie:unitree_go1/scene") == menagerie / "scene.xml"
    assert mass_kg(load_model(GO1, "menagerie:unitree_go1")) == pytest.approx(mass_kg(load_model(GO1)) + 1.0)


def test_a_robot_yaml_names_one(menagerie, tmp_path):
    values = yaml.safe_load((ASSETS / "go1" / "robot.yaml").read_text()) | {"mjcf": "menagerie:unitree_go1"}
    for foot in values["feet"]:
        foot["geoms"] = [foot["name"]]
        del foot["site"]
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(values))
    config = load_robot(tmp_path)
    assert config.mjcf == "menagerie:unitree_go1" and mass_kg(load_model(config)) == pytest.approx(
        mass_kg(load_model(GO1)) + 1.0
    )
    assert all(check.verdict != MISTAKE for check in check_robot(tmp_path))


@pytest.mark.e2e
def test_training_evaluation_and_play_take_one(menagerie, tmp_path):
    done = run(
        "train",
        "+robot=go1",
        "env.mjcf=menagerie:unitree_go1",
        "env.num_envs=8",
        "trainer.rollout_steps=8",
        "ppo.num_epochs=1",
        "ppo.num_minibatches=2",
        "policy.hidden=[16]",
        "trainer.total_steps=128",
        "trainer.evaluation_envs=2",
        "trainer.evaluation_s=0.2",
        "trainer.final_evaluation_envs=2",
        "trainer.final_evaluation_s=0.2",
        "hydra.run.dir=run",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    done = run(
        "train.evaluate",
        "policy=run/policy",
        "mjcf=menagerie:unitree_go1",
        "num_envs=2",
        "duration_s=1.1",
        "output=run/e.json",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "e.json").read_text())["mjcf"] == "menagerie:unitree_go1"
    robot = rfx.SimRobot("go1", mjcf="menagerie:unitree_go1")  # as train.play has it
    assert (
        mass_kg(robot.physics.model) == pytest.approx(mass_kg(load_model(GO1)) + 1.0)
        and np.isfinite(robot.observe()["state"]).all()
    )
    done = run("train.play", "policy=run/policy", "mjcf=menagerie:unitree_go2", folder=tmp_path)
    assert (
        done.returncode != 0
        and "'unitree_go2' not found under MENAGERIE_ROOT" in done.stderr
        and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize(
    "reference, message",
    [
        ("menagerie:unitree_go9", "menagerie:unitree_go9: Unknown robot 'unitree_go9'. Did you mean 'unitree_go"),
        ("menagerie:unitree_go1/go", "menagerie:unitree_go1/go: 'unitree_go1' has no entry point 'go'"),
        ("menagerie:unitree_go2", "menagerie:unitree_go2: 'unitree_go2' not found under MENAGERIE_ROOT"),
    ],
)
def test_what_it_does_not_have(menagerie, reference, message):
    with pytest.raises(ValueError) as caught:
        load_model(GO1, reference)
    assert str(caught.value).startswith(message)


def test_without_the_package_use_names_the_extra(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "mujoco_menagerie", None)
    with pytest.raises(
        ImportError,
        match=r"menagerie:unitree_go1 needs mujoco-menagerie, which is not installed: pip install -e '.\[menagerie\]'",
    ):
        load_model(GO1, "menagerie:unitree_go1")
    text = (ASSETS / "go1" / "robot.yaml").read_text().replace("mjcf: go1.xml", "mjcf: menagerie:unitree_go1")
    (tmp_path / "robot.yaml").write_text(text)
    assert load_robot(tmp_path).mjcf == "menagerie:unitree_go1"  # what the robot is can be read without
    assert main(["check-robot", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("rfx check-robot: menagerie:unitree_go1 needs mujoco-menagerie")
