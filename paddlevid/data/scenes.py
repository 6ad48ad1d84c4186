"""Scenes of a video: where one picture cuts to another, found by PySceneDetect."""

import importlib.util
from dataclasses import replace
from pathlib import Path

from paddlevid.data.decode import DecodeError, count_frames, is_video
from paddlevid.data.sample import FrameSampler, Sampler


def check_scenedetect() -> None:
    """Raise ValueError where PySceneDetect is not installed."""
    if importlib.util.find_spec("scenedetect") is None:
        raise ValueError(
            "frames of each scene need PySceneDetect, which is not installed: "
            "pip install scenedetect"
        )


def find_cuts(path: Path) -> tuple[int, ...]:
    """The numbers of the frames with which a new scene begins, without the first: 0-based.

    By the change of hue, saturation and lightness (PySceneDetect's ContentDetector). The whole
    video is read for it, one frame at a time.

    Raises DecodeError for anything but a video file that can be read.
    """
    import scenedetect  # an extra

    if not is_video(path):
        raise DecodeError(f"{path}: scenes are found in video files only")
    count_frames(path)  # within the limits
    try:
        scenes = scenedetect.detect(str(path), scenedetect.ContentDetector())
    except (OSError, scenedetect.VideoOpenFailure) as error:
        raise DecodeError(f"{path}: cannot be read for its scenes ({error})") from error
    return tuple(start.frame_num for start, _ in scenes[1:])


def with_scenes(sampler: Sampler, path: Path) -> Sampler:
    """The sampler, which knows the video's cuts if it is to take frames of each scene."""
    if isinstance(sampler, FrameSampler) and sampler.kind == "scenes":
        return replace(sampler, cuts=find_cuts(path))
    return sampler
