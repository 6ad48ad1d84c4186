"""The classes of a video while it runs, without paddlevid: python example.py VIDEO [EVERY]

Each frame goes once through the program, with the state that the frame before left behind.
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

if len(sys.argv) not in (2, 3) or not "".join(sys.argv[2:] or ["1"]).isdecimal():
    sys.exit("usage: python example.py VIDEO [EVERY]")
here = Path(__file__).resolve().parent
meta = json.loads((here / "metadata.json").read_text(encoding="utf-8"))
mean, std = np.float32(meta["mean"]), np.float32(meta["std"])  # RGB, of values in 0 .. 1
every = max(int(sys.argv[2]), 1) if len(sys.argv) > 2 else 8  # frames from line to line

config = Config(*(str(here / file) for file in meta["programs"]["model"]["files"]))
config.disable_glog_info()
config.disable_gpu()
config.enable_mkldnn()  # oneDNN
config.delete_pass("inplace_pass")  # in Paddle 3.3 it overwrites what is still to be read
predictor = create_predictor(config)
outputs = [predictor.get_output_handle(name) for name in predictor.get_output_names()]
inputs = meta["programs"]["model"]["inputs"]  # the frame, then the state
names = [item["name"] for item in inputs]
state = [np.zeros([1, *item["shape"][1:]], np.float32) for item in inputs[1:]]

seen = 0
for number, (frame, _) in enumerate(decoded(sys.argv[1])):
    if number % meta["sampling"]["interval"]:
        continue
    upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
    image = resize(np.ascontiguousarray(upright), meta["resize"])
    [clip] = views(image[None], meta["crop"])  # (1, H, W, 3)
    pixels = ((clip / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    for name, array in zip(names, [pixels, *state], strict=True):
        handle = predictor.get_input_handle(name)
        handle.copy_from_cpu(np.ascontiguousarray(array, np.float32))
    predictor.run()
    logits, *state = [output.copy_to_cpu() for output in outputs]
    seen += 1
    if seen % every == 0:
        scores = np.exp(logits[0] - logits[0].max())
        scores /= scores.sum()
        best = np.argsort(-scores, kind="stable")[:5]
        row = {meta["classes"][label]: round(float(scores[label]), 6) for label in best}
        print(json.dumps({"frame": number, "scores": row}, ensure_ascii=False), flush=True)
