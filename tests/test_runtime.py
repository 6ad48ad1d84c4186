"""Process settings; each test starts a process, as paddle can be imported only once."""

import os
import subprocess
import sys
from pathlib import Path

import joblib
import pytest

from paddlevid import runtime

ROOT = Path(__file__).parents[1]
AMD = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx avx2 bmi2\n"
SETTINGS = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "FLAGS_use_stride_kernel")


def run(code: str, **settings: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, **settings},
    )


def settings_after_configure(cpuinfo: str, **settings: str) -> list[str]:
    """OMP_NUM_THREADS and MKL_DEBUG_CPU_TYPE; nothing of paddle is loaded."""
    code = (
        "import os, sys, types\n"
        "from paddlevid import runtime\n"
        f"runtime._cpu_description = lambda: {cpuinfo!r}\n"
        "paddle = types.SimpleNamespace(is_compiled_with_cuda=lambda: True)\n"
        "runtime.import_module = lambda name: paddle\n"
        "runtime.configure()\n"
        f"print(*(os.environ.get(name) for name in {SETTINGS[:2]}))"
    )
    done = run(code, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_threads_are_the_usable_cores_and_amd_gets_its_kernels():
    assert settings_after_configure(AMD) == [str(joblib.cpu_count()), "5"]


def test_what_the_user_has_set_stays():
    mine = {"OMP_NUM_THREADS": "7", "MKL_DEBUG_CPU_TYPE": "4"}
    assert settings_after_configure(AMD, **mine) == ["7", "4"]


def test_other_processors_keep_mkls_own_choice():
    intel = AMD.replace("AuthenticAMD", "GenuineIntel")
    assert settings_after_configure(intel, OMP_NUM_THREADS="1") == ["1", "None"]


@pytest.mark.parametrize(
    ("cuda", "settings", "expected"),
    [(False, {}, False), (True, {}, None), (False, {"FLAGS_use_stride_kernel": "1"}, None)],
)
def test_paddle_for_cpu_copies_instead_of_making_views(cuda, settings, expected):
    code = (
        "import types\n"
        "from paddlevid import runtime\n"
        "flags = {}\n"
        f"cuda = lambda: {cuda}\n"
        "paddle = types.SimpleNamespace(is_compiled_with_cuda=cuda, set_flags=flags.update)\n"
        "runtime.import_module = lambda name: paddle\n"
        "runtime.configure()\n"
        "print(flags.get('FLAGS_use_stride_kernel'))"
    )
    assert run(code, **settings).stdout.split() == [str(expected)]


def test_this_paddle_takes_the_flag():
    code = (
        "from paddlevid import runtime\n"
        "runtime.configure()\n"
        "import paddle\n"
        "print(paddle.get_flags(['FLAGS_use_stride_kernel']), paddle.is_compiled_with_cuda())"
    )
    out = run(code).stdout
    assert "False} False" in out or out.endswith("True\n")


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (AMD, True),
        (AMD.replace("bmi2", "").replace(" \n", "\n"), True),  # avx2 at the line's end
        (AMD.replace("avx2", "avx2x"), False),
        (AMD.replace("avx2 ", ""), False),
        (AMD.replace("AuthenticAMD", "GenuineIntel"), False),
        ("", False),
    ],
)
def test_amd_with_avx2_is_told_from_cpuinfo(cpuinfo, expected):
    assert runtime.is_amd_with_avx2(cpuinfo) is expected


def test_affinity_limits_the_cores():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no affinity on this system")
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from paddlevid import runtime; print(runtime.usable_cores())"
    )
    assert run(code).stdout == "1\n"


def test_importing_paddle_says_nothing_and_trains():
    code = (
        "from paddlevid import runtime; runtime.configure(); runtime.configure()\n"
        "import paddle\n"
        "norm = paddle.nn.BatchNorm1D(2)\n"
        "norm(paddle.ones([2, 2])).sum().backward()\n"
        "print(list(norm.weight.grad.shape))"
    )
    done = run(code)
    assert (done.stdout, done.stderr) == ("[2]\n", "")


def test_configuring_after_paddle_is_an_error():
    code = (
        "import sys; sys.modules['paddle'] = object()\n"
        "from paddlevid import runtime\n"
        "try: runtime.configure()\n"
        "except RuntimeError as error: print(error)"
    )
    assert "came after `import paddle`, where it has no effect: call it first" in run(code).stdout


def test_a_paddle_that_cannot_be_imported_says_why():
    code = (
        "import sys\n"
        "from paddlevid import runtime\n"
        "def fail(name):\n"
        "    print('a library is missing', file=sys.stderr)\n"
        "    raise ImportError('no paddle')\n"
        "runtime.import_module = fail\n"
        "runtime.configure()"
    )
    done = run(code)
    assert done.returncode == 1
    assert "a library is missing" in done.stderr
    assert "ImportError: no paddle" in done.stderr


KEPT = """
import resource
from paddlevid import runtime
runtime.keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
    b"x" * (64 << 20)
before = faults()
for _ in range(4):
    b"x" * (64 << 20)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_kept_for_the_next_step():
    pages = 4 * (64 << 20) // 4096
    assert int(run(KEPT).stdout) < pages / 100
    assert int(run(KEPT, MALLOC_ARENA_MAX="2").stdout) > pages / 100  # the user's settings stay
