"""Measurements: what each part costs beside doing without it."""
