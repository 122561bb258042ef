"""The devices of a run: each batch is divided over them, all else is replicated.

A step is one program, written for the whole batch, which XLA partitions over the
devices (GSPMD, Xu et al. 2021, arXiv:2105.04663). So the statistics of batch norm, the
loss and every random draw are those of the whole batch, and the number of devices
changes nothing but the order of additions. (In bfloat16 each device rounds its gradient
before they are added.)
"""

import dataclasses
import functools
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fer_jax.errors import UserError

AXIS = "batch"

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of all processes of a run, in the order of a batch's parts.

    Attributes:
      mesh: one axis, `AXIS`, in which the devices of a process are neighbours.
    """

    mesh: Mesh

    @property
    def count(self) -> int:
        """The number of devices."""
        return self.mesh.size

    @functools.cached_property
    def replicated(self) -> NamedSharding:
        """The sharding of arrays that are replicated on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def divided(self, axis: int = 0) -> NamedSharding:
        """The sharding of arrays that are divided along one axis."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, AXIS))

    def replicate(self, tree: Tree) -> Tree:
        """Puts arrays on every device; all processes pass the same ones."""

        def put(array: Any) -> jax.Array:
            if self.replicated.is_fully_addressable:
                return jax.device_put(array, self.replicated)
            if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(put(jax.random.key_data(array)))
            host = np.asarray(array)
            return jax.make_array_from_callback(
                host.shape, self.replicated, lambda place: host[place]
            )

        return jax.tree.map(put, tree)

    def divide(self, tree: Tree, size: int, *, axis: int = 0) -> Tree:
        """Divides arrays of `size` rows, a multiple of `count`, along an axis.

        A process may pass its own rows alone, those of `own(size)`.
        """
        sharding = self.divided(axis)
        if sharding.is_fully_addressable:
            return jax.device_put(tree, sharding)
        return jax.tree.map(
            lambda array: jax.make_array_from_process_local_data(
                sharding, array, (*array.shape[:axis], size, *array.shape[axis + 1 :])
            ),
            tree,
        )

    def own(self, size: int) -> slice:
        """The rows of a batch of `size` that this process's devices take."""
        processes, number = jax.process_count(), jax.process_index()
        return slice(number * size // processes, (number + 1) * size // processes)

    def connect(self) -> None:
        """Connects the processes, before any of them compiles.

        Some backends connect devices at their first collective operation, and then wait
        only half a minute for a late process.
        """
        if not self.replicated.is_fully_addressable:
            one = np.ones(self.count, np.int32)
            add = jax.jit(jnp.sum, out_shardings=self.replicated)
            add(self.divide(one, self.count)).block_until_ready()

    def __str__(self) -> str:
        """A description such as "8 x NVIDIA H100 in 2 processes"."""
        kind, processes = self.mesh.devices.flat[0].device_kind, jax.process_count()
        found = kind if self.count == 1 else f"{self.count} x {kind}"
        return found if processes == 1 else f"{found} in {processes} processes"


def find(wanted: int | Literal["all"], batch_size: int) -> Devices:
    """The devices that a run asks for, the same number of each process.

    Raises:
      UserError: if there are fewer, or they cannot share a batch equally.
    """
    every, processes = jax.devices(), jax.process_count()
    by_process = [
        [each for each in every if each.process_index == number]
        for number in range(processes)
    ]
    available = processes * min(map(len, by_process))
    count = available if wanted == "all" else wanted
    if count > available:
        raise UserError(
            f"device is {count}, but this run sees {available} "
            f"({every[0].device_kind}); set it to at most that, or to all"
        )
    if count % processes:
        below = count - count % processes
        raise UserError(
            f"device is {count}, which {processes} processes cannot share equally; set "
            f"it to {' or '.join(str(n) for n in (below, below + processes) if n)}"
        )
    if batch_size % count:
        below = batch_size - batch_size % count
        sizes = " or ".join(str(n) for n in (below, below + count) if n)
        fewer = [n for n in range(processes, count, processes) if batch_size % n == 0]
        choice = f", or device to {fewer[-1]}" if fewer else ""
        raise UserError(
            f"training.batch_size is {batch_size}, which {count} devices cannot share "
            f"equally; set it to {sizes}{choice}"
        )
    used = [device for own in by_process for device in own[: count // processes]]
    found = Devices(Mesh(np.array(used), (AXIS,)))
    found.connect()
    return found
