"""PPO: rollout, GAE, losses, update, trainer loop, checkpoints, metrics, evaluation, benchmark."""
