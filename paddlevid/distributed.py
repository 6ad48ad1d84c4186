"""Training and prediction by several processes, one a device, of `paddle.distributed.launch`.

In a process of its own, everything here does nothing: there is one rank, 0. The functions that say
"together" return when all ranks have called them.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import paddle
import paddle.distributed as dist
from paddle import Tensor, nn

from paddlevid.runtime import is_launched

BUCKET_BYTES = 64 << 20  # of gradients that travel together

Thing = TypeVar("Thing")


def join() -> None:
    """Meet the other processes; together."""
    if is_launched() and not dist.is_initialized():
        dist.init_parallel_env()


def rank() -> int:
    """Which of the processes this is; 0 writes the files."""
    return dist.get_rank() if is_launched() else 0


def num_ranks() -> int:
    """How many processes there are."""
    return dist.get_world_size() if is_launched() else 1


def gather(thing: Thing) -> list[Thing]:
    """What each rank gives, in their order; together. For things that can be pickled."""
    if not is_launched():
        return [thing]
    things: list[Thing] = []
    dist.all_gather_object(things, thing)
    return things


def gather_all(things: Sequence[Thing]) -> list[Thing]:
    """What the lists of all ranks hold, one behind the other; together."""
    return list(itertools.chain.from_iterable(gather(things)))


def on_first(action: Callable[[], Thing]) -> Thing:
    """What rank 0 gets by an action, which the others wait for; together."""
    return gather(action() if rank() == 0 else None)[0]


def share(tensors: Iterable[Tensor]) -> None:
    """Set tensors to those of rank 0; together."""
    if is_launched():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def share_statistics(model: nn.Layer) -> None:
    """Set what no gradient changes, as the statistics of batch norms, to that of rank 0; together.

    Each rank has gathered those of its own clips.
    """
    share(tensor for tensor in model.state_dict().values() if tensor.stop_gradient)


def add_gradients(parameters: Sequence[Tensor]) -> None:
    """Set the gradient of each parameter to the sum over all ranks; together.

    A rank may have none, where it had no clips.
    """
    if not is_launched():
        return
    trained = [parameter for parameter in parameters if not parameter.stop_gradient]
    has_gradient = paddle.to_tensor([int(p.grad is not None) for p in trained], dtype="int32")
    dist.all_reduce(has_gradient, dist.ReduceOp.MAX)
    moved = list(itertools.compress(trained, has_gradient.numpy()))
    for bucket in _buckets(moved):
        gradients = [paddle.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        sums = paddle.concat([gradient.reshape([-1]) for gradient in gradients])
        dist.all_reduce(sums)
        parts = sums.split([gradient.size for gradient in gradients])
        for parameter, part in zip(bucket, parts, strict=True):
            parameter.grad = part.reshape(parameter.shape)


def _buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The parameters in groups of one type and of no more than BUCKET_BYTES, or of one."""
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        nbytes = parameter.size * parameter.element_size()
        if bucket and (size + nbytes > BUCKET_BYTES or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += nbytes
    if bucket:
        yield bucket
