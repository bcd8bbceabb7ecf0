"""Robots behind one interface: the protocol in robot.py, a mock, a simulated robot, and drivers."""
