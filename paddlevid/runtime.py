"""Process settings that must precede `import paddle`: every entry point calls `configure` first."""

import contextlib
import ctypes
import io
import os
import sys
import warnings
import zlib  # noqa: F401  paddle 2.6 breaks zlib, and PyAV with it, when it is imported before them
from importlib import import_module
from pathlib import Path

import av  # noqa: F401
import joblib

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
_configured = False


def usable_cores() -> int:
    """How many cores this process may use: affinity and container limits are respected.

    The processes that `paddle.distributed.launch` starts on one machine share them.
    """
    return max(joblib.cpu_count() // int(os.environ.get("PADDLE_LOCAL_SIZE", 1)), 1)


def is_launched() -> bool:
    """Whether this process is one of several of `paddle.distributed.launch`."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", 1)) > 1


def settings() -> dict[str, str]:
    """The environment variables that `configure` sets, where the user has not set them."""
    mkl = {"MKL_DEBUG_CPU_TYPE": "5"} if is_amd_with_avx2(_cpu_description()) else {}
    # Warnings of Paddle's C++ mean nothing to its users; errors come as exceptions.
    return {"OMP_NUM_THREADS": str(usable_cores()), **mkl, "GLOG_minloglevel": "2"}


def configure() -> None:
    """Set the number of threads and MKL's kernels, where the user has not set them; import paddle.

    Paddle takes one thread when OMP_NUM_THREADS is not set, and the MKL in its wheels picks slow
    kernels on AMD processors unless MKL_DEBUG_CPU_TYPE says that they have AVX2. Together that is
    a factor of about 4 on two cores. Transposed views without a copy, which suit a GPU, make a
    small transformer half as fast on a CPU, so Paddle for CPU is told to copy.

    A second call does nothing. Raises RuntimeError if paddle was imported without it: then it is
    too late.
    """
    global _configured
    if _configured:
        return
    if "paddle" in sys.modules:
        raise RuntimeError(
            "paddlevid.runtime.configure() came after `import paddle`, where it has no effect: "
            "call it first"
        )
    for name, value in settings().items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", "When training, we now always track global mean")
    messages = io.StringIO()
    try:  # paddle prints warnings about the number of threads and a missing ccache
        with contextlib.redirect_stderr(messages), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            paddle = import_module("paddle")
    except BaseException:
        sys.stderr.write(messages.getvalue())
        raise
    if not paddle.is_compiled_with_cuda():
        # Views instead of copies after transpose and slice: on a CPU what reads them pays more.
        flag = "FLAGS_use_stride_kernel"
        if flag not in os.environ:
            paddle.set_flags({flag: False})
    _configured = True


def keep_freed_memory() -> None:
    """Have glibc keep what training frees for the next step, where the user has not set malloc.

    It would map and unmap each large array anew, and the system would clear its pages each time:
    about a tenth of a training step on a CPU, for up to a fifth more memory.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt:
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 256 << 20)):
            mallopt(option, value)


def is_amd_with_avx2(cpuinfo: str) -> bool:
    """Whether the text of /proc/cpuinfo describes an AMD processor with AVX2."""
    return "AuthenticAMD" in cpuinfo and " avx2 " in cpuinfo.replace("\n", " ")


def _cpu_description() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux: keep MKL's own choice
        return ""


def processor() -> str:
    """The processor's name, where the system tells."""
    lines = _cpu_description().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")


def peak_memory_mb() -> float | None:
    """The largest resident memory of this process so far, in MB; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)
