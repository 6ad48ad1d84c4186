"""Encoding: frames -> a video file."""

from pathlib import Path

import av
import numpy as np

from paddlevid.data.decode import Frames


def write_mp4(path: Path, frames: Frames) -> None:
    """Write RGB frames, uint8 (T, H, W, 3), as H.264, which browsers play too.

    Ten a second, slow enough to be looked at. Sides of an odd number of pixels get one more, a
    copy of the last.
    """
    _, height, width, _ = frames.shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18"}
        for frame in frames:
            image = np.pad(frame, [(0, height % 2), (0, width % 2), (0, 0)], "edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
