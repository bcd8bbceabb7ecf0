"""Measures how good a policy is: evaluation, suite, crossings, and their tables, plots and reports."""
