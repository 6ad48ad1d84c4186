"""The classes of a video by paddle.inference, without paddlevid: python example.py VIDEO"""

import json
import sys
from pathlib import Path

import av
import cv2
import numpy as np
from paddle.inference import Config, create_predictor

from paddlevid.export.pieces import centre as views
from paddlevid.export.pieces import decoded
from paddlevid.export.pieces import segments as choose
from paddlevid.export.pieces import short_side as resize

if len(sys.argv) != 2:
    sys.exit("usage: python example.py VIDEO")
here = Path(__file__).resolve().parent
meta = json.loads((here / "metadata.json").read_text(encoding="utf-8"))
mean, std = np.float32(meta["mean"]), np.float32(meta["std"])  # RGB, of values in 0 .. 1

# decoded once to count the frames, once to take those that are wanted
n, fps = max((n, fps) for n, (_, fps) in enumerate(decoded(sys.argv[1]), start=1))
phases = (np.arange(meta["sampling"]["num_clips"]) + 0.5) / meta["sampling"]["num_clips"]
chosen = [choose(n, fps, meta["sampling"], phase) for phase in phases]
wanted, frames = set(np.concatenate(chosen).tolist()), {}
for number, (frame, _) in enumerate(decoded(sys.argv[1])):
    if number in wanted:
        upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
        frames[number] = resize(np.ascontiguousarray(upright), meta["resize"])

clips = [view for at in chosen for view in views(np.stack([frames[i] for i in at]), meta["crop"])]
clips = (np.stack(clips) / np.float32(255) - mean) / std  # (N, T, H, W, 3)
missing = meta["sampling"]["frames"] - clips.shape[1]  # frames of zeros are passed over
if missing < 0:
    sys.exit(
        f"{sys.argv[1]}: {clips.shape[1]} frames, the program takes {clips.shape[1] + missing}"
    )
clips = np.pad(clips, [(0, 0), (0, missing), (0, 0), (0, 0), (0, 0)]).transpose(0, 4, 1, 2, 3)

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
