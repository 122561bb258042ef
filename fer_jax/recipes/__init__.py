"""Ablations, and the recipes for the best accuracy and the shortest training."""
