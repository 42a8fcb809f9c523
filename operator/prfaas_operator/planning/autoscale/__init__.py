"""What the autoscaler is told of this cluster's pools, and what it says to them: values in, values out."""
