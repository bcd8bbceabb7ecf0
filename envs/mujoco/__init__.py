"""Gymnasium's MuJoCo tasks, version 5, in batches: a vector environment steps all its simulations with one call."""

# By name: the class, and the length of an episode in steps
TASKS = {
    "HalfCheetah": ("runners:HalfCheetahEnv", 1000),
    "Hopper": ("runners:HopperEnv", 1000),
    "Walker2d": ("runners:Walker2dEnv", 1000),
    "Swimmer": ("runners:SwimmerEnv", 1000),
    "Ant": ("bodies:AntEnv", 1000),
    "Humanoid": ("bodies:HumanoidEnv", 1000),
    "Reacher": ("arms:ReacherEnv", 50),
    "Pusher": ("arms:PusherEnv", 100),
    "InvertedPendulum": ("pendulums:InvertedPendulumEnv", 1000),
    "InvertedDoublePendulum": ("pendulums:InvertedDoublePendulumEnv", 1000),
}
