"""PPO: collect, estimate advantages, update. It works on arrays and any VectorEnv, and knows no robot by name."""
