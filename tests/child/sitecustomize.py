"""Gives child processes of the tests the network `tiny`.

Python imports this file at its start where this folder is on PYTHONPATH. The network
is registered as soon as `fer_jax.models` is imported, so a child that needs no JAX
still imports none.
"""

import importlib.util
import sys


class _AfterModels:
    """A finder of `fer_jax.models` whose loader imports `tiny_network` at its end."""

    def find_spec(self, name, path=None, target=None):
        if name != "fer_jax.models":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            importlib.import_module("tiny_network")

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _AfterModels())
