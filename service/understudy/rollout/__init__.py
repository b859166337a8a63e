"""Policy, routing, losses, evidence, sequential tests, judge and controller of a rollout."""
