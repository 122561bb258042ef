"""Trained models as files, and the one that ships with the package."""
