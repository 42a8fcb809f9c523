"""`prfaas simulate`: a scenario played through, and the evidence for what the project promises."""
