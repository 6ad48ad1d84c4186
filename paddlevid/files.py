"""Files: the cache, files written whole or not at all, and the texts that weights carry."""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import safetensors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TEXT_LIMIT = 1 << 18  # bytes of a config or a manifest, which a few thousand fill


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a small file; ValueError where it is a large one, or no text."""
    check_no_pipe(path)
    with open(path, "rb") as file:
        content = file.read(TEXT_LIMIT + 1)
    if len(content) > TEXT_LIMIT:
        raise ValueError(f"it has more than {TEXT_LIMIT:,} bytes, and needs no tenth of that")
    return content.decode(encoding).replace("\r\n", "\n")


_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def readable(text: object) -> str:
    """A path, name or message in one line of UTF-8: what controls a terminal, or is from another
    encoding, is written with a backslash.
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def check_inside(folder: Path, paths: Iterable[Path]) -> None:
    """Raise ValueError where one of the paths below a folder leads out of it, by a link."""
    root = folder.resolve()
    for path in paths:
        if not path.resolve().is_relative_to(root):
            raise ValueError(
                f"{path} is a link out of {folder}: remove it, or choose another TARGET"
            )


def check_no_pipe(path: Path) -> None:
    """Raise ValueError for a pipe or a device, which might be read without end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError("it is a pipe or a device, not a file")


def cache_folder() -> Path:
    """Where programs are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "paddlevid", "programs")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file that one process may hold; BlockingIOError where another one does.

    Without effect where the system, or the file system, has no locks of POSIX.
    """
    with open(path, "ab") as file:
        try:
            if fcntl:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # of the file system
            pass
        yield


@contextlib.contextmanager
def whole_file(path: Path, durable: bool = False) -> Iterator[Path]:
    """A name beside `path` to write to, which takes its place at the end.

    Where the writing fails, what was at `path` before stays, and nothing is left beside it.
    `durable`: also where the power fails, for which the disk is waited for.
    """
    partial = path.with_name(f".{path.name}.partial")
    if partial.is_symlink():  # it would lead elsewhere
        partial.unlink()
    try:
        with _naming(path, instead_of=partial):
            yield partial
            if durable:  # a name must not get to the disk before what it names
                _wait_for_disk(partial, os.O_RDWR)
            os.replace(partial, path)
            if durable and os.name == "posix":
                _wait_for_disk(path.parent, os.O_RDONLY)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` to write to, which takes its place at the end.

    Where the writing fails, what was at `path` before stays, and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    check_writable(path.parent)
    made = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        partial, before = made / "new", made / "old"
        partial.mkdir()
        yield partial
        replace_folder(partial, path, before)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def replace_folder(partial: Path, path: Path, before: Path) -> None:
    """Put a folder in the place of what is at `path`, which goes to `before`, or stays on error."""
    if path.exists():
        os.replace(path, before)
    try:
        os.replace(partial, path)
    except BaseException:
        if before.exists():
            os.replace(before, path)
        raise


def is_newer(path: Path, made: Path) -> bool:
    """Whether a file was changed after what was made of it; False where it is not there."""
    return path.exists() and path.stat().st_mtime_ns > made.stat().st_mtime_ns


def seen_from(folder: Path, path: Path) -> str:
    """A path relative to a folder, links followed: the same when both were moved together."""
    return os.path.relpath(path.resolve(), folder.resolve())


def check_source(note: Path, noted: object, source: Path) -> None:
    """Raise ValueError where a note is of another source than this, which `seen_from` wrote.

    A note of an earlier version has none (None).
    """
    if noted not in (None, seen_from(note.parent, source)):
        other = os.path.normpath(note.parent.resolve() / str(noted))
        raise ValueError(
            f"{note.parent} holds what was made of {other}, not of {source.resolve()}: choose "
            f'another TARGET; if these are the same videos, moved, remove "source" from {note}'
        )


@contextlib.contextmanager
def _naming(path: Path, instead_of: Path) -> Iterator[None]:
    """Have errors of the system name a file by the name that the user knows."""
    try:
        yield
    except OSError as error:
        if error.filename != str(instead_of):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_writable(folder: Path) -> None:
    """Raise OSError, with the folder's name, where no file can be made in it."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = f"no file can be written there ({error.strerror})"
        raise OSError(error.errno, reason, str(folder)) from error


def _wait_for_disk(path: Path, flags: int) -> None:
    file = os.open(path, flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_whole(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def sha256_of(path: Path) -> str:
    """The hash of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a .safetensors holds beside its arrays.

    Raises ValueError for a file that is damaged or none.
    """
    try:
        check_no_pipe(path)
        with safetensors.safe_open(path, "numpy") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged or no .safetensors: {error}") from error
