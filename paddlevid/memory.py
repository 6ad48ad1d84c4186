"""Memory: what the system and a container leave, and what processes hold, in bytes."""

import re
import shutil
from pathlib import Path

import psutil

SHARED = Path("/dev/shm")
# A container's limit, what it uses, and of what; in version 2 and 1 of Linux's control groups.
CONTAINER_FILES = (
    tuple(Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory.current", "memory.stat")),
    tuple(
        Path("/sys/fs/cgroup/memory", f"memory.{name}")
        for name in ("limit_in_bytes", "usage_in_bytes", "stat")
    ),
)


def free_memory() -> tuple[int, int]:
    """Memory that can still be had, and all there is; a container's limit counts as all."""
    system = psutil.virtual_memory()
    free, total = system.available, system.total
    for files in CONTAINER_FILES:
        try:
            limit, used, parts = (file.read_text() for file in files)
            limit, used = int(limit), int(used)
        except (OSError, ValueError):  # no container, or "max": no limit
            continue
        if limit < total:
            cached = max(map(int, re.findall(r"inactive_file (\d+)", parts)), default=0)
            free, total = min(free, max(limit - used + cached, 0)), limit
    return free, total


def free_shared_memory() -> tuple[int, int] | None:
    """Free and in all of /dev/shm; None where there is none."""
    if not SHARED.is_dir():
        return None
    usage = shutil.disk_usage(SHARED)
    return usage.free, usage.total


def held_memory() -> tuple[int, int]:
    """Resident memory of this process, and of all processes that it started."""
    process, children = psutil.Process(), 0
    for child in process.children(recursive=True):
        try:
            children += child.memory_info().rss
        except psutil.Error:  # it has ended meanwhile
            continue
    return process.memory_info().rss, children


def in_words(size: int) -> str:
    """Bytes as "12.3 GB" or "64 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
