"""Commands that need the operator's own functions: render and adopt."""
