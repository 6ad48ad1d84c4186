"""The machine: versions, threads, memory, disks, GPUs and decoders -> findings.

Nothing but the standard library is imported before `check_libraries` has seen that it can be.
"""

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata
from pathlib import Path

from paddlevid import __version__
from paddlevid.doctor.finding import Finding, ok, warning, wrong

# By the name under which they are imported, those that pip knows.
NEEDED = {
    "numpy": ["numpy"],
    "av": ["av"],
    "cv2": ["opencv-python-headless", "opencv-python", "opencv-contrib-python"],
    "yaml": ["pyyaml"],
    "safetensors": ["safetensors"],
    "jinja2": ["jinja2"],
    "joblib": ["joblib"],
    "PIL": ["pillow"],
    "psutil": ["psutil"],
    "tqdm": ["tqdm"],
    "matplotlib": ["matplotlib"],
    "sklearn": ["scikit-learn"],
    "skimage": ["scikit-image"],
    "visualdl": ["visualdl"],
}
SETTINGS = re.compile(
    r"(OMP|MKL|KMP|GOMP|OPENBLAS|FLAGS|MALLOC|CUDA|NVIDIA|GLOG|XDG_CACHE)_\w+"
    r"|LD_PRELOAD|LD_LIBRARY_PATH|PYTHONPATH"
)
SMALL = 1_000_000_000  # bytes of memory, disk or shared memory below which something may go wrong
_DRIVER = Path("/proc/driver/nvidia/version")
_PADDLE = (
    "from paddlevid import runtime; runtime.configure(); import paddle; "
    "print('paddle', paddle.__version__, paddle.version.cuda(), paddle.version.cudnn(), "
    "paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0, sep='|')"
)


def check_libraries() -> Iterator[Finding]:
    """Versions, and whether each library can be imported."""
    yield ok(f"paddlevid {__version__}, Python {platform.python_version()}, {platform.platform()}")
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        yield warning(
            f"paddlevid is tried with Python 3.10 to 3.12, not {platform.python_version()}",
            "make a virtual environment with one of these",
        )
    versions = []
    for module, names in NEEDED.items():
        try:
            import_module(module)
        except Exception as error:  # whatever a broken library raises
            yield wrong(
                f"{module} cannot be imported: {type(error).__name__}: {error}",
                f"pip install --force-reinstall {names[0]}",
            )
            continue
        versions += [f"{name} {version}" for name in names if (version := _version(name))]
    yield ok(", ".join(versions))
    several = [name for name in NEEDED["cv2"] if _version(name)]
    if len({_version(name) for name in several}) > 1:
        yield warning(
            f"several OpenCV lie one over the other: {', '.join(several)}",
            f"pip uninstall -y {' '.join(several)}; pip install opencv-python-headless",
        )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def check_paddle() -> Iterator[Finding]:
    """Whether Paddle can be imported, seen in another process, which it may crash; GPUs."""
    done = subprocess.run(
        [sys.executable, "-c", _PADDLE], capture_output=True, text=True, errors="replace"
    )
    said = next((line for line in done.stdout.splitlines() if line.startswith("paddle|")), "")
    if done.returncode or not said:
        yield _explain_import(done.returncode, done.stderr.strip().splitlines()[-1:])
        return
    _, version, cuda, cudnn, num_gpus = said.split("|")
    is_for_cuda = cuda not in ("False", "None")
    built = f"for CUDA {cuda} and cuDNN {cudnn}" if is_for_cuda else "for CPU"
    yield ok(f"Paddle {version}, {built}")
    driver = re.search(r"\d+\.[\d.]*\d", _DRIVER.read_text()) if _DRIVER.exists() else None
    if int(num_gpus):
        yield ok(f"{num_gpus} GPU{'s' * (num_gpus != '1')}, driver {driver[0] if driver else '?'}")
    elif is_for_cuda:
        yield warning(
            "this Paddle is for a GPU, but finds none, so all is computed on the CPU",
            "look at nvidia-smi; in Docker: docker run --gpus all; or install paddlepaddle",
        )
    elif driver:
        yield warning(
            "this machine has a GPU, but this Paddle is for CPU",
            "pip uninstall -y paddlepaddle; pip install -r requirements-gpu.txt",
        )


def _explain_import(code: int, last_line: list[str]) -> Finding:
    reason = last_line[0] if last_line else f"it ended with exit code {code}"
    if code == -signal.SIGILL.value:
        return wrong(
            "Paddle cannot be imported: this processor lacks an instruction that it uses (SIGILL)",
            "it needs AVX: take another machine, or let a virtual one show its host's processor",
        )
    if "No module named 'paddle'" in reason:
        return wrong(
            f"Paddle is not installed for {sys.executable}",
            "pip install -r requirements.txt, or requirements-gpu.txt for a GPU",
        )
    advice = "pip install --force-reinstall paddlepaddle, or paddlepaddle-gpu for a GPU"
    if "No module named" in reason:
        advice = "pip install -r requirements.txt: a library is missing that is needed before it"
    elif "numpy" in reason.lower():
        advice = "paddlepaddle 2.6 needs NumPy 1: pip install 'numpy<2'"
    return wrong(f"Paddle cannot be imported: {reason}", advice)


def check_threads(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Threads and MKL's kernels, as `runtime.configure` sets them or the user has.

    `environment`: as it was before any library was imported, as some of them change it.
    """
    from paddlevid import runtime

    cores, ours = runtime.usable_cores(), runtime.settings()
    processor = runtime.processor() or platform.processor() or platform.machine()
    yield ok(f"{processor}: {cores} of {os.cpu_count()} cores are usable")
    named = [name for name in environment if SETTINGS.fullmatch(name)]
    yours = [f"{name}={environment[name]}" for name in sorted(named)]
    yield ok("set by you: " + (", ".join(yours) or "nothing"))
    added = [f"{name}={value}" for name, value in ours.items() if name not in environment]
    yield ok("set by paddlevid: " + (", ".join(added) or "nothing"))
    threads = environment.get("OMP_NUM_THREADS", str(cores))
    if not threads.isdecimal() or not 1 <= int(threads) <= cores:
        yield warning(
            f"OMP_NUM_THREADS={threads} for {cores} cores: the threads wait for each other",
            "unset OMP_NUM_THREADS: paddlevid sets it to the usable cores",
        )
    elif int(threads) < cores:
        yield warning(
            f"OMP_NUM_THREADS={threads} for {cores} cores: the others stay idle on a CPU",
            "unset OMP_NUM_THREADS, unless other work is to have these cores",
        )
    mkl = environment.get("MKL_DEBUG_CPU_TYPE")
    if mkl and mkl != ours.get("MKL_DEBUG_CPU_TYPE", mkl):
        yield warning(
            f"MKL_DEBUG_CPU_TYPE={mkl}: MKL takes slow kernels on an AMD processor",
            "unset MKL_DEBUG_CPU_TYPE: paddlevid sets it to 5",
        )


def check_memory() -> Iterator[Finding]:
    """Memory and /dev/shm."""
    from paddlevid.memory import free_memory, free_shared_memory, in_words

    free, total = free_memory()
    text = f"memory: {in_words(free)} of {in_words(total)} are free"
    if free < SMALL:
        yield warning(text, "end other programs, or lower batch_size and num_reader_threads")
    else:
        yield ok(text)
    shared = free_shared_memory()
    if shared is None:
        yield ok("/dev/shm: there is none, and none is needed")
        return
    text = f"/dev/shm: {in_words(shared[0])} of {in_words(shared[1])} are free"
    if shared[0] < SMALL:
        yield warning(
            f"{text}: enough for the loading processes, too little for several GPUs (NCCL)",
            "docker run --shm-size=8g, or remove what other programs left in /dev/shm",
        )
    else:
        yield ok(text)


def check_disk(what: str, folder: Path) -> Iterator[Finding]:
    """Whether a folder, which may not exist yet, can be written to and has room."""
    from paddlevid.memory import in_words

    place = _existing(folder)
    if not place.is_dir():
        yield wrong(f"{what} {folder}: {place} is a file", "choose another folder")
        return
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        yield wrong(
            f"{what} {folder}: nothing can be written to {place} ({error.strerror})",
            "change its rights (chmod), make room, or choose another folder",
        )
        return
    text = f"{what} {folder}: {in_words(free_disk(folder))} are free"
    if free_disk(folder) < SMALL:
        yield warning(text, "make room, or choose a folder on another disk")
    else:
        yield ok(text)


def free_disk(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which may not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())


def check_decoders() -> Iterator[Finding]:
    """Every reader of clips, on a clip that is made on the spot and whose frames are known."""
    import cv2
    import numpy as np

    from paddlevid.data.decode import decode
    from paddlevid.data.encode import write_mp4
    from paddlevid.data.video import BACKENDS

    levels = np.linspace(30, 220, 12).astype(np.uint8)
    frames = np.empty((len(levels), 48, 64, 3), np.uint8)
    frames[:] = levels[:, None, None, None]
    wanted = np.array([0, 5, 11, 5])

    def problem_of(path: Path, backend: str | None) -> str:
        try:
            found = decode(path, wanted, backend)
        except Exception as error:  # whatever a broken library raises
            return str(error).removeprefix(f"{path}: ")
        error = np.abs(found.astype(int) - frames[wanted]).max()
        return f"its frames differ from those written by {error} of 255" if error > 16 else ""

    with tempfile.TemporaryDirectory() as folder:
        video, images = Path(folder, "clip.mp4"), Path(folder, "frames")
        try:
            write_mp4(video, frames)
        except Exception as error:  # an FFmpeg without libx264, say
            yield wrong(
                f"PyAV cannot write an .mp4, so videos were not tried: {error}",
                "pip install --force-reinstall av, from PyPI: its wheels have all that is needed",
            )
        else:
            for backend in BACKENDS:
                if not (problem := problem_of(video, backend)):
                    yield ok(f"{backend} reads H.264")
                elif backend == "pyav":
                    yield wrong(f"PyAV does not read H.264: {problem}",
                                "pip install --force-reinstall av")  # fmt: skip
                else:
                    yield warning(
                        f"OpenCV does not read H.264, so nothing stands in for PyAV: {problem}",
                        "pip install --force-reinstall opencv-python-headless",
                    )
        images.mkdir()
        for number, frame in enumerate(frames):
            cv2.imwrite(str(images / f"{number}.jpg"), frame)
        if problem := problem_of(images, None):
            yield wrong(f"OpenCV does not read JPEGs: {problem}",
                        "pip install --force-reinstall opencv-python-headless")  # fmt: skip
        else:
            yield ok("opencv reads JPEGs")
