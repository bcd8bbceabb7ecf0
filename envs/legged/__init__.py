"""The walking task: batched physics of any legged robot that a RobotConfig describes, and the terms that its YAML
names.
"""
