"""A trained model in use: load it, predict with it, export it."""
