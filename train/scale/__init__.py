"""Collects rollouts with Ray workers on one or more machines."""
