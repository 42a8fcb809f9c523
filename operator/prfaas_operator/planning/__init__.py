"""Decisions: from observed values to a plan. No client, no clock, no randomness."""
