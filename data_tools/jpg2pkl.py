"""Pack clips: SOURCE/<class>/<clip>/*.jpg -> TARGET/<class>/<clip>.pkl = (name, label, frames)."""

import argparse
import json
import os
import pickle
import sys
from pathlib import Path

import joblib
import numpy as np
from tqdm import tqdm

from paddlevid.cluster import ADDRESS_HELP, open_workers
from paddlevid.data.decode import DecodeError, frame_files, natural_key, read_image
from paddlevid.files import check_inside, whole_file, write_whole
from paddlevid.flags import Parser, at_least, describe, is_disk_full
from paddlevid.pickles import PlainUnpickler

BOOK_SUFFIX = "_jpg"  # of the book's class folders


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        description="Pack the frames that avi2jpg.py extracted: SOURCE/<class>/<clip>/00001.jpg "
        "... becomes TARGET/<class>/<clip>.pkl, the pickled tuple (clip name, label, frames). "
        "Reads the book's folders (<class>_jpg/<clip>/<clip>_1.jpg) as well. Labels count the "
        "classes in natural order; TARGET/classes.txt lists them. Clips that are finished are "
        "skipped, so it can be interrupted and run again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", type=Path, help="folder of class folders")
    parser.add_argument("target", metavar="TARGET", type=Path, help="folder to write to")
    parser.add_argument(
        "--embed", action="store_true",
        help="put the JPEG files themselves into the .pkl, not their paths: one file a clip",
    )  # fmt: skip
    parser.add_argument(
        "--label-dir", type=Path, metavar="FILE", help="labels of the book's label_dir.npy"
    )
    parser.add_argument(
        "--workers", type=at_least(1), default=joblib.cpu_count(), help="processes to use"
    )
    parser.add_argument("--cluster", metavar="HOST:PORT", help=ADDRESS_HELP)
    return parser.parse_args(argv)


class _Array:
    """Stands for a numpy array while label_dir.npy is read: keeps the state, runs nothing."""

    def __init__(self, *_: object) -> None:
        self.state: tuple = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = state


class _ObjectArrayUnpickler(PlainUnpickler):
    def find_class(self, module: str, name: str) -> object:
        wanted = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")
        if f"{module}.{name}".replace("numpy._core", "numpy.core") not in wanted:
            raise pickle.UnpicklingError(f"it wants to run {module}.{name}, which is refused")
        return _Array


def read_label_dir(path: Path) -> dict[str, int]:
    """The {class: label} of the book's label_dir.npy, without executing its pickle.

    Raises ValueError when the file holds anything else.
    """
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            read_header(file)
            array = _ObjectArrayUnpickler(file, encoding="latin1").load()
        labels = array.state[-1][0]  # version, shape, dtype, order, [the one object]
        if not isinstance(labels, dict):
            raise ValueError(f"it holds a {type(labels).__name__}")
        labels = {str(name): int(label) for name, label in labels.items()}
    except OSError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(
            f"{path}: not the book's label_dir.npy, a dictionary of classes and labels ({error})"
        ) from error
    if sorted(labels.values()) != list(range(len(labels))):
        raise ValueError(f"{path}: its labels are not 0 to {len(labels) - 1}: {labels}")
    return labels


def find_classes(source: Path, labels: dict[str, int] | None) -> dict[str, Path]:
    """The class folders in the order of their labels: {class: folder}.

    Raises ValueError where there is none, or one that `labels` does not know.
    """
    if not source.is_dir():
        raise ValueError(f"{source} is not a folder: it needs one of class folders")
    folders = [path for path in source.iterdir() if path.is_dir() and path.name[0] != "."]
    if not folders:
        raise ValueError(
            f"no class folders in {source}: it needs <class>/<clip>/00001.jpg, which avi2jpg.py "
            "makes"
        )
    if labels or all(folder.name.endswith(BOOK_SUFFIX) for folder in folders):
        classes = {folder.name.removesuffix(BOOK_SUFFIX): folder for folder in folders}
    else:
        classes = {folder.name: folder for folder in folders}
    if labels is None:
        return dict(sorted(classes.items(), key=lambda pair: natural_key(pair[0])))
    if unknown := sorted(set(classes) - set(labels)):
        raise ValueError(f"--label-dir knows no class {unknown[0]!r}; it has {', '.join(labels)}")
    if absent := sorted(set(labels) - set(classes)):
        raise ValueError(f"--label-dir has a class {absent[0]!r}, which has no folder in {source}")
    return dict(sorted(classes.items(), key=lambda pair: labels[pair[0]]))


def pack(clip: Path, label: int, target: Path, embed: bool) -> str:
    """One clip: -> what went wrong."""
    try:
        files = frame_files(clip)
        if not files:
            return f"{clip}: has no images"
        if embed:
            frames = [read_image(file, clip) for file in files]
        else:
            start = os.path.relpath(clip.resolve(), target.parent.resolve())  # `..` of a link's end
            frames = [Path(start, file.relative_to(clip)).as_posix() for file in files]
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as partial, open(partial, "wb") as stream:  # closed, then moved
            pickle.dump((clip.name, label, frames), stream, protocol=4)
    except DecodeError as error:
        return str(error)
    except OSError as error:
        if is_disk_full(error):
            raise  # the other clips would fail in the same way
        return f"{clip}: cannot write {target}: {error.strerror or error}"
    return ""


def start(target: Path, source: Path, classes: list[str], embed: bool) -> None:
    """Note in TARGET what it holds; clips of another source, kind or labels are removed."""
    target.mkdir(parents=True, exist_ok=True)
    note = target / "jpg2pkl.json"
    wanted = {"source": os.path.relpath(source, target), "embed": embed, "classes": classes}
    if note.exists():
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
        except ValueError:  # cut off or edited: what it stood for is not known
            found = None
        old = list(target.glob("*/*.pkl")) if found != wanted else []
        for file in old:
            file.unlink()
        if old:
            print(f"{target}: {len(old)} clips of another source, kind or labels are made anew")
    write_whole(note, json.dumps(wanted, ensure_ascii=False) + "\n")
    write_whole(target / "classes.txt", "".join(f"{name}\n" for name in classes))


def main(argv: list[str] | None = None) -> int:
    """Pack; -> exit code, 1 when some clips failed."""
    args = parse_args(argv)
    try:
        labels = read_label_dir(args.label_dir) if args.label_dir else None
        classes = find_classes(args.source, labels)
        clips = {
            clip: (label, args.target / name / f"{clip.name}.pkl")
            for label, (name, folder) in enumerate(classes.items())
            for clip in sorted(folder.iterdir())
            if clip.is_dir() and clip.name[0] != "."
        }
        if not clips:
            raise ValueError(f"no clips in the class folders of {args.source}")
        check_inside(args.target, {file.parent for _, file in clips.values()})
        start(args.target, args.source, list(classes), args.embed)
    except (ValueError, OSError) as error:
        print(f"jpg2pkl.py: {describe(error, args.target)}", file=sys.stderr)
        return 1
    jobs = [  # absolute paths: joblib's processes may have been started in another folder
        joblib.delayed(pack)(clip.absolute(), label, file.absolute(), args.embed)
        for clip, (label, file) in clips.items()
        if not file.exists() or file.stat().st_mtime < clip.stat().st_mtime
    ]
    problems = []
    try:
        with open_workers(args.workers, args.cluster) as parallel:
            for problem in tqdm(parallel(jobs), total=len(jobs), unit="clip", disable=not jobs):
                if problem:
                    problems.append(problem)
                    tqdm.write(problem, file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"jpg2pkl.py: {describe(error, args.target)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jpg2pkl.py: stopped; run it again to pack the rest", file=sys.stderr)
        return 130
    print(
        f"{args.target}: {len(jobs) - len(problems)} clips of {len(classes)} classes packed, "
        f"{len(clips) - len(jobs)} were there already, {len(problems)} failed"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
