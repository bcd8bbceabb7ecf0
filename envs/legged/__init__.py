"""The walking task: batched physics of any legged robot with a RobotConfig, and the terms that its YAML names."""
