"""The tasks that a run can learn; each is a train.task.task.Task."""
