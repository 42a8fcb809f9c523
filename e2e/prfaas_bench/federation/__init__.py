"""Many regions through one hub: how many writes that costs, and how long changes take."""
