"""How good a policy is: evaluation, suite, crossings, and what shows them."""
