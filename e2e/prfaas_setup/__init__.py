"""Sets up what the rest of the repository runs in: virtual environments, the engine, models, system packages.

Uses the standard library only, because it runs before anything is installed.
"""
