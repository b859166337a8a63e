"""Whole rollouts whose truth is known, through the real evidence path, for models, labels, clocks and faults of many kinds."""
