"""`prfaas plan`: what the planner would do with a scenario, and the paper's tables by the same code."""
