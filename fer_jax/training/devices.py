"""The devices of a run: each batch is divided over them, all else lies whole on each.

A step is one program, written for the whole batch, which XLA compiles for all devices
together (GSPMD, Xu et al. 2021, arXiv:2105.04663). So the statistics of batch norm, the
loss and every random draw are the whole batch's, and an image is augmented alike
wherever it lies: the number of devices changes nothing but the order of additions.
(In bfloat16 the devices' gradients are rounded before they are added, not after.)
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
    """The devices of a run, of all of its processes, in the order of a batch's parts.

    Attributes:
      mesh: one axis, `AXIS`; each process's devices lie side by side.
    """

    mesh: Mesh

    @property
    def count(self) -> int:
        """How many there are."""
        return self.mesh.size

    @functools.cached_property
    def whole(self) -> NamedSharding:
        """The sharding of what each device has a copy of."""
        return NamedSharding(self.mesh, PartitionSpec())

    def parts(self, axis: int = 0) -> NamedSharding:
        """The sharding of what is divided along one of its axes."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, AXIS))

    def put(self, tree: Tree) -> Tree:
        """Puts arrays on all devices; each process has the same ones."""

        def put(array: Any) -> jax.Array:
            if self.whole.is_fully_addressable:
                return jax.device_put(array, self.whole)
            if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(put(jax.random.key_data(array)))
            host = np.asarray(array)
            return jax.make_array_from_callback(
                host.shape, self.whole, lambda place: host[place]
            )

        return jax.tree.map(put, tree)

    def divide(self, tree: Tree, size: int, *, axis: int = 0) -> Tree:
        """Gives each device its part of some arrays.

        Args:
          tree: arrays; each has along `axis` all `size` rows, or only those that
            `own(size)` says.
          size: of the whole; a multiple of `count`.
          axis: which one is divided.
        """
        sharding = self.parts(axis)
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

    def meet(self) -> None:
        """Connects the processes now, while none of them compiles.

        The connections of a set of devices are made when it first adds something up,
        and some kinds wait only half a minute then for a process that is late.
        """
        if not self.whole.is_fully_addressable:
            one = np.ones(self.count, np.int32)
            add = jax.jit(jnp.sum, out_shardings=self.whole)
            add(self.divide(one, self.count)).block_until_ready()

    def __str__(self) -> str:
        """In words, as "8 x NVIDIA H100 in 2 processes"."""
        kind, processes = self.mesh.devices.flat[0].device_kind, jax.process_count()
        told = kind if self.count == 1 else f"{self.count} x {kind}"
        return told if processes == 1 else f"{told} in {processes} processes"


def find(wanted: int | Literal["all"], batch_size: int) -> Devices:
    """The devices that a run asks for.

    Args:
      wanted: how many of those of all processes, as many from each; or "all".
      batch_size: what they are to divide among them.

    Raises:
      UserError: if there are not so many, or they cannot share evenly.
    """
    every, processes = jax.devices(), jax.process_count()
    count = len(every) if wanted == "all" else wanted
    if count > len(every):
        raise UserError(
            f"device is {count}, but this run sees {len(every)} "
            f"({every[0].device_kind}); set it to at most that, or to all"
        )
    if count % processes:
        below = count - count % processes
        choices = [str(n) for n in (below, below + processes) if 0 < n <= len(every)]
        raise UserError(
            f"device is {count}, of which {processes} processes cannot have equally "
            f"many; set it to {' or '.join(choices)}"
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
    share = count // processes
    mine = [
        [each for each in every if each.process_index == number]
        for number in range(processes)
    ]
    if (fewest := min(map(len, mine))) < share:
        raise UserError(
            f"device is {wanted}, but one of the {processes} processes sees only "
            f"{fewest} devices; set it to {fewest * processes}"
        )
    used = [device for own in mine for device in own[:share]]
    found = Devices(Mesh(np.array(used), (AXIS,)))
    found.meet()
    return found
