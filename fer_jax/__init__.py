"""fer_jax: a laboratory for facial emotion recognition in JAX."""

__version__ = "0.1.0"
