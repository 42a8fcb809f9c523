"""`prfaas evidence`: what the project promises, simulated, with the conditions under which it holds."""
