"""Engine plug-ins. Nothing here imports what a stock engine image lacks."""
