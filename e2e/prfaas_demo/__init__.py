"""The demo: two emulated regions, real engines, one shared prompt."""
