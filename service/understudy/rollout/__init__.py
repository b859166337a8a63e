"""What a rollout is: policy, phases, evidence, verdict."""
