"""The classes of a video, by its optical flow, without paddlevid: python example.py VIDEO"""

import json
import sys
from pathlib import Path

import av
import cv2
import numpy as np
from paddle.inference import Config, create_predictor

from paddlevid.export.pieces import centre as views
from paddlevid.export.pieces import decoded, shrunk
from paddlevid.export.pieces import dis as estimate
from paddlevid.export.pieces import segments as choose
from paddlevid.export.pieces import short_side as resize

if len(sys.argv) != 2:
    sys.exit("usage: python example.py VIDEO")
here = Path(__file__).resolve().parent
meta = json.loads((here / "metadata.json").read_text(encoding="utf-8"))
mean, std = np.float32(meta["mean"]), np.float32(meta["std"])  # of x and y, of values in 0 .. 1
flow, length = meta["flow"], meta["sampling"]["seglen"]

# decoded once to count the frames, once to take those that are wanted
n = sum(1 for _ in decoded(sys.argv[1]))
if n == 1:
    sys.exit(f"{sys.argv[1]} has a single frame; optical flow is between two")
phases = (np.arange(meta["sampling"]["num_clips"]) + 0.5) / meta["sampling"]["num_clips"]
chosen = [choose(n - 1, 0.0, meta["sampling"], phase) for phase in phases]
wanted, grey = set(np.concatenate(chosen).tolist()), {}
for number, (frame, _) in enumerate(decoded(sys.argv[1])):
    if number in wanted or number - 1 in wanted:  # field i lies between the frames i and i + 1
        upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
        small = shrunk(np.ascontiguousarray(upright), flow["short_side"])
        grey[number] = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)

fields, bound = {}, flow["bound"]
for i in wanted:
    try:
        moved = np.clip(estimate(grey[i], grey[i + 1]), -bound, bound) + bound
    except cv2.error:
        height, width = grey[i].shape
        sys.exit(
            f"{sys.argv[1]}: no optical flow between frames of {width}x{height}, which need 16 "
            "pixels or more"
        )
    fields[i] = resize(np.rint(moved * (255 / (2 * bound))).astype(np.uint8), meta["resize"])

clips = [view for at in chosen for view in views(np.stack([fields[i] for i in at]), meta["crop"])]
clips = (np.stack(clips) / np.float32(255) - mean) / std  # (N, S * L, H, W, 2)
stacked = clips.reshape(len(clips), -1, length, *clips.shape[2:])  # (N, S, L, H, W, 2)
clips = stacked.transpose(0, 2, 5, 1, 3, 4).reshape(len(clips), 2 * length, -1, *clips.shape[2:4])

config = Config(*(str(here / file) for file in meta["programs"]["model"]["files"]))
config.disable_glog_info()
config.disable_gpu()
config.enable_mkldnn()  # oneDNN
config.delete_pass("inplace_pass")  # in Paddle 3.3 it overwrites what is still to be read
predictor = create_predictor(config)
handle = predictor.get_input_handle(predictor.get_input_names()[0])
handle.copy_from_cpu(np.ascontiguousarray(clips, np.float32))
predictor.run()
logits = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu().mean(axis=0)

scores = np.exp(logits - logits.max())
scores /= scores.sum()
for label in np.argsort(-scores, kind="stable")[:5]:
    print(f"{scores[label]:.6f}  {meta['classes'][label]}")
