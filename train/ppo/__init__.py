"""The algorithm: collect, estimate advantages, update. Arrays and a VectorEnv; no environment and no robot by name."""
