"""From a user's pod template to the template that runs: a function of values."""
