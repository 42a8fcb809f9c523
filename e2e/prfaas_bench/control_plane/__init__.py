"""What operator and gateway cost in a cluster of many pools, beside an operator of the usual style."""
