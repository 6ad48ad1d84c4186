"""Preparing data in many processes: of this machine, or of a Dask cluster."""

import contextlib
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool

import joblib


@contextlib.contextmanager
def open_workers(number: int, address: str | None = None) -> Iterator[joblib.Parallel]:
    """What runs joblib's jobs and gives their results as they come, in any order.

    Args:
        number: processes of this machine.
        address: HOST:PORT of the scheduler of a Dask cluster whose workers do it instead. They need
            paddlevid, and have to see the files under the same paths.

    Raises ValueError where Dask is not installed, no scheduler answers, or a process of this
    machine dies.
    """
    if not address:
        try:
            yield joblib.Parallel(number, return_as="generator_unordered")
        except BrokenProcessPool as error:
            raise ValueError(DIED) from error
        return
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise ValueError(
            "--cluster needs Dask, here and on the cluster: pip install dask distributed"
        ) from error
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError, TimeoutError) as error:
        raise ValueError(
            f"--cluster {address}: no Dask scheduler answers there ({error or 'no answer'}); "
            "`dask scheduler` starts one and says its address"
        ) from error
    with client, joblib.parallel_config("dask"):
        if not client.scheduler_info()["workers"]:
            raise ValueError(f"--cluster {address}: it has no workers; `dask worker` starts some")
        yield joblib.Parallel(-1, return_as="generator_unordered")


DIED = (
    "a process died, of a damaged clip or for want of memory: data_tools/check_videos.py finds "
    "such clips; run it again for the rest"
)
ADDRESS_HELP = "the scheduler of a Dask cluster that does the work, see docs/scale.md"
