"""Pieces: the functions that an example is put together from, of NumPy, OpenCV and PyAV alone.

They say what paddlevid.data.sample and paddlevid.data.transform say in evaluation, in a form that
can be read in a script of one page. `s` is the part of the metadata that they are about.
"""

import sys

import av
import cv2
import numpy as np

# --- reading --------------------------------------------------------------------------------------


def decoded(path):
    """The frames of a video, and how many a second it has."""
    frame = None
    try:
        with av.open(path) as video:
            fps = float(video.streams.video[0].average_rate or 0)
            for frame in video.decode(video=0):
                yield frame, fps
    except (av.error.FFmpegError, IndexError) as error:  # IndexError: it has sound alone
        sys.exit(f"{path} cannot be read as a video: {error}")
    if frame is None:
        sys.exit(f"{path} has no frames")


# --- sampling: number of frames, frames a second -> which of them ---------------------------------


def segments(n, fps, s, phase):
    """Some frames from each of equal segments of the video."""
    starts, span, length = np.arange(s["seg_num"]), n / s["seg_num"], s["seglen"]
    if n // s["seg_num"] >= length:
        starts = np.floor(starts * span + (span - length + 1) * phase)
    else:  # too short: frames repeat
        starts = np.floor((starts + phase) * n / s["seg_num"] - (length - 1) / 2)
    return np.clip(starts[:, None] + np.arange(length), 0, n - 1).astype(int).ravel()


def book(n, fps, s, phase):
    """Some frames from each of equal segments, by the rule of the book."""
    span, length = n // s["seg_num"], s["seglen"]
    starts = np.arange(s["seg_num"]) * max(span, 1)
    starts = starts + (span - 1) // 2 if span >= length else starts
    return (starts[:, None] + np.arange(length)).ravel() % n


def dense(n, fps, s, phase):
    """A window of neighbours, every interval-th of them."""
    room = max(n - ((s["frames"] - 1) * s["interval"] + 1), 0)
    return np.minimum(int(room * phase) + s["interval"] * np.arange(s["frames"]), n - 1)


def linspace(n, fps, s, phase):
    """Frames over a window of a fixed duration."""
    target = s["target_fps"]
    window = max(s["frames"] * s["interval"] * (fps or target) / target, 1)
    start = max(n - window, 0) * phase
    return np.clip(np.linspace(start, start + window - 1, s["frames"]), 0, n - 1).astype(int)


def uniform(n, fps, s, phase):
    """Evenly from the first frame to the last."""
    return np.round(np.linspace(0, n - 1, s["frames"])).astype(int)


def end(n, fps, s, phase):
    """Back from the last frame, in even steps."""
    step = round(n / s["frames"])
    return np.maximum(n - 1 - step * np.arange(s["frames"])[::-1], 0)


def chapter(n, fps, s, phase):
    """In even steps from the first frame."""
    return np.arange(0, n, max(1, n // s["seg_num"]))[: s["seg_num"]]


def every(n, fps, s, phase):
    """Every interval-th frame of the video."""
    return np.arange(0, n, s["interval"])


def rate(n, fps, s, phase):
    """So many frames a second; all where the video has fewer or does not say."""
    return np.floor(np.arange(0, n, max(fps / s["target_fps"], 1) if fps else 1)).astype(int)


SAMPLINGS = {
    "segments": segments, "book": book, "dense": dense, "linspace": linspace, "uniform": uniform,
    "end": end, "chapter": chapter, "every": every, "fps": rate,
}  # fmt: skip
FRAMES_OF_ALL = ("uniform", "end", "chapter")  # seg_num frames, whatever seglen is

# --- resizing: a frame or a field (H, W, C) -> (h, w, C) ------------------------------------------


def short_side(frame, s):
    """The short side gets so many pixels, the other one in proportion."""
    scale = s["short_size"] / min(frame.shape[:2])
    height, width = (round(side * scale) for side in frame.shape[:2])
    return cv2.resize(frame, (width, height))


def fixed(frame, s):
    """To a fixed size; the aspect ratio is not kept."""
    return cv2.resize(frame, (s["width"], s["height"]))


def letterbox(frame, s):
    """Into a fixed size with the aspect ratio kept, between bars."""
    ratio = max(frame.shape[0] / s["height"], frame.shape[1] / s["width"])
    height, width = (max(int(side / ratio), 1) for side in frame.shape[:2])
    top, left = (s["height"] - height) // 2, (s["width"] - width) // 2
    box = np.full((s["height"], s["width"], frame.shape[2]), s["fill"], np.uint8)
    box[top : top + height, left : left + width] = cv2.resize(frame, (width, height))
    return box


RESIZES = {"short_side": short_side, "fixed": fixed, "letterbox": letterbox}

# --- views: frames (T, H, W, 3) -> the clips whose scores are averaged ----------------------------


def whole(clip, s):
    """The frames as they are."""
    return [clip]


def centre(clip, s):
    """The square in the middle."""
    (height, width), size = clip.shape[1:3], s["size"]
    top, left = (height - size) // 2, (width - size) // 2
    return [clip[:, top : top + size, left : left + size]]


def three(clip, s):
    """Three squares along the longer side."""
    size = s["size"]
    y, x = clip.shape[1] - size, clip.shape[2] - size
    places = [(y // 2, left) for left in (0, x // 2, x)]
    if x < y:
        places = [(top, x // 2) for top in (0, y // 2, y)]
    return [clip[:, top : top + size, left : left + size] for top, left in places]


def ten(clip, s):
    """The corners and the middle, each also mirrored."""
    size = s["size"]
    y, x = (clip.shape[1] - size) // 4, (clip.shape[2] - size) // 4
    places = [(0, 0), (0, 4 * x), (4 * y, 0), (4 * y, 4 * x), (2 * y, 2 * x)]
    views = [clip[:, top : top + size, left : left + size] for top, left in places]
    return views + [view[:, :, ::-1] for view in views]


def ten_of_flow(clip, s):
    """The corners and the middle, each also mirrored, where x goes the other way."""
    size = s["size"]
    y, x = (clip.shape[1] - size) // 4, (clip.shape[2] - size) // 4
    places = [(0, 0), (0, 4 * x), (4 * y, 0), (4 * y, 4 * x), (2 * y, 2 * x)]
    views = [clip[:, top : top + size, left : left + size] for top, left in places]
    return views + [np.where([True, False], 255 - view, view)[:, :, ::-1] for view in views]


VIEWS = {
    "whole": whole, "centre": centre, "three": three, "ten": ten, "ten, of flow": ten_of_flow,
}  # fmt: skip

# --- optical flow: two grey frames -> how far each pixel moves (H, W, 2) --------------------------


def dis(before, after):
    """By dense inverse search."""
    preset = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
    return cv2.DISOpticalFlow_create(preset).calc(before, after, None)


def tvl1(before, after):
    """By TV-L1, of OpenCV's contrib modules: pip install opencv-contrib-python-headless"""
    return cv2.optflow.DualTVL1OpticalFlow_create().calc(before, after, None)


def farneback(before, after):
    """By Farneback's polynomials."""
    return cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)


FLOWS = {"dis": dis, "tvl1": tvl1, "farneback": farneback}


def shrunk(frame, short_side):
    """A frame with a short side of so many pixels, 0: as it is; smaller by averaging pixels."""
    scale = short_side / min(frame.shape[:2]) if short_side else 1
    height, width = (round(side * scale) for side in frame.shape[:2])
    method = cv2.INTER_AREA if height < frame.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(frame, (width, height), interpolation=method)
