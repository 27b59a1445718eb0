"""Checks of predictions against memory that other code really allocated (extra: validate)."""
