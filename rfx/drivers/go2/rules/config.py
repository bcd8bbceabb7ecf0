"""The Go2 as data, read from its file."""

from rfx.robot.files import load_robot

GO2_CONFIG = load_robot("go2")
