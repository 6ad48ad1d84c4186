"""The frames to come of a video by paddle.inference, without paddlevid: python example.py VIDEO

Writes them as predicted.npy, float32 (T, H, W, C) from 0 to 1, and side by side as predicted.png.
"""

import json
import sys
from pathlib import Path

import av
import cv2
import numpy as np
from paddle.inference import Config, create_predictor

from paddlevid.export.pieces import centre as views
from paddlevid.export.pieces import decoded
from paddlevid.export.pieces import short_side as resize

if len(sys.argv) != 2:
    sys.exit("usage: python example.py VIDEO")
here = Path(__file__).resolve().parent
meta = json.loads((here / "metadata.json").read_text(encoding="utf-8"))
count, interval = meta["sampling"]["frames"], meta["sampling"]["interval"]

last = []  # frames, no more than the window that ends the video
for frame, _ in decoded(sys.argv[1]):
    upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
    last.append(resize(np.ascontiguousarray(upright), meta["resize"]))
    del last[: -(count - 1) * interval - 1]
if len(last) <= (count - 1) * interval:
    sys.exit(f"{sys.argv[1]}: too short, it needs {(count - 1) * interval + 1} frames")
[past] = views(np.stack(last[::interval]), meta["crop"])
if meta["grey"]:
    past = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in past])[..., None]
past = (past / np.float32(255)).transpose(3, 0, 1, 2)[None]  # (N, C, T, H, W)

config = Config(*(str(here / file) for file in meta["programs"]["model"]["files"]))
config.disable_glog_info()
config.disable_gpu()
config.enable_mkldnn()  # oneDNN
config.delete_pass("inplace_pass")  # in Paddle 3.3 it overwrites what is still to be read
predictor = create_predictor(config)
handle = predictor.get_input_handle(predictor.get_input_names()[0])
handle.copy_from_cpu(np.ascontiguousarray(past, np.float32))
predictor.run()
[future] = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()

frames = future.transpose(1, 2, 3, 0)  # (T, H, W, C)
np.save("predicted.npy", frames)
strip = np.concatenate(list(np.rint(frames.clip(0, 1) * 255).astype(np.uint8)), axis=1)
cv2.imwrite("predicted.png", strip[..., ::-1])
print(f"{len(frames)} frames in predicted.npy and predicted.png")
