"""Videos, cameras and addresses that run -> what is said of them all the while."""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paddlevid import build, runtime
from paddlevid.annotate import StreamVideos, name_of
from paddlevid.config import Config, ConfigError, ReaderConfig
from paddlevid.data.live import LiveSource
from paddlevid.inference.output import readable
from paddlevid.models import MoViNetStream
from paddlevid.predictor import Predictor
from paddlevid.stream import Stream, push_all


def stream(
    args: argparse.Namespace,
    config: Config,
    predictor: Predictor,
    classes: list[str],
) -> int:
    """Predict videos, cameras or addresses while they run: -> exit code, 1 when one broke off."""
    if runtime.is_launched():
        raise ConfigError("--stream runs in one process: start it without paddle's launcher")
    reader: ReaderConfig = config.infer
    if reader.crops > 1 or reader.num_clips > 1:
        raise ConfigError("--stream looks at one view: set crops and num_clips to 1")
    if args.memory and not isinstance(predictor.network, MoViNetStream):
        raise ConfigError(f"--memory is for a movinet_*_stream, not {config.model.create_name}")
    if config.model.format == "features":
        raise ConfigError(f"--stream: {config.model.create_name} reads features, not frames")
    for address in args.inputs:
        if not (address.isdecimal() or "://" in address or Path(address).is_file()):
            raise ConfigError(f"--stream {address}: there is no such file, and it is no address")
    streams = build.build_streams(config, predictor, len(args.inputs), args.every, args.memory or 0)
    k = min(args.top_k, len(classes))
    stride = args.stride or config.model.interval
    with contextlib.ExitStack() as opened:
        read = 1 if args.save_video else stride  # a video shows the other frames as well
        sources = [opened.enter_context(LiveSource(a, stride=read)) for a in args.inputs]
        for source in sources:
            opened.callback(source.stop)  # these come first
        videos = None
        if args.save_video:
            names = [readable(name_of(address)) for address in args.inputs]
            videos = opened.enter_context(
                StreamVideos(args.save_video, args.inputs, names, classes, k)
            )
            for video in videos.videos:
                print(f"writing {video.target} until the end or Ctrl-C", file=sys.stderr)
        output = sys.stdout
        if args.output:
            output = opened.enter_context(open(args.output, "w", encoding="utf-8"))
        for row in run_streams(streams, sources, args.every, args.smooth, stride, videos):
            best = np.argsort(-row["smoothed"], kind="stable")[:k]
            row["classes"] = [classes[i] for i in best]
            for name in ("probabilities", "smoothed"):
                row[name] = [round(float(row[name][i]), 4) for i in best]
            print(json.dumps(row, ensure_ascii=False), file=output, flush=True)
    for source in sources:
        told = f"{readable(source.address)}: {source.num_read} frames, {source.num_dropped} dropped"
        print(told + (f"; {source.problem}" if source.problem else ""), file=sys.stderr)
    for video in videos.videos if videos else ():
        if video.num_frames:
            note = f"; {video.note}" if video.note else ""
            print(f"{video.num_frames} frames in {video.target}{note}", file=sys.stderr)
    return 1 if any(source.problem for source in sources) else 0


def run_streams(
    streams: Sequence[Stream],
    sources: Sequence[LiveSource],
    every: int,
    smooth: float,
    stride: int,
    videos: StreamVideos | None = None,
) -> Iterator[dict]:
    """What is said of the sources, until all have ended: a row for each `every` frames of each.

    Of each `stride` frames one is looked at. All go into the videos, with what the rows say.
    """
    counts, averages = [0] * len(sources), [None] * len(sources)
    newest: list = [None] * len(sources)  # number, seconds and scores of the last frame with scores
    unsaid = [False] * len(sources)
    blocks = [-1] * len(sources)  # of `stride` frames, the newest one a frame was looked at of

    def row(i: int) -> dict:
        unsaid[i] = False
        number, seconds, scores = newest[i]
        return {
            "input": readable(sources[i].address), "frame": number, "seconds": round(seconds, 3),
            "dropped": sources[i].num_dropped, "classes": [], "probabilities": scores,
            "smoothed": averages[i],
        }  # fmt: skip

    while not all(source.ended for source in sources):
        taken = [(i, m) for i, source in enumerate(sources) if (m := source.take()) is not None]
        if videos:
            videos.check()
        if not taken:
            waiting = next((i for i, source in enumerate(sources) if not source.ended), None)
            moment = None if waiting is None else sources[waiting].take(wait=0.05)
            if moment is None:
                continue
            taken = [(waiting, moment)]
        chosen = [(i, moment) for i, moment in taken if moment[0] // stride != blocks[i]]
        for i, moment in chosen:
            blocks[i] = moment[0] // stride
        found: dict[int, NDArray[np.float32] | None] = {}
        if chosen:
            scores = push_all([streams[i] for i, _ in chosen], [m[2] for _, m in chosen])
            found = {i: row for (i, _), row in zip(chosen, scores, strict=True)}
        for i, moment in taken:
            if i in found:
                counts[i] += 1
                if found[i] is not None:
                    newest[i], unsaid[i] = (moment[0], moment[1], found[i]), True
                    old = found[i] if averages[i] is None else averages[i]
                    averages[i] = smooth * old + (1 - smooth) * found[i]
            is_due = i in found and counts[i] % every == 0 and unsaid[i]
            if videos:
                videos.add(i, moment, averages[i] if is_due else None)
            if is_due:
                yield row(i)
    for i, source in enumerate(sources):
        if unsaid[i]:  # the last frames of a source
            yield row(i)
        elif newest[i] is None and not source.problem:
            source.problem = f"only {counts[i]} frames were looked at, too few to say anything"
