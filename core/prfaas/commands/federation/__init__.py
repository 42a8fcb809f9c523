"""`prfaas federation`: makes clusters known to one another, and says what keeps them apart."""
