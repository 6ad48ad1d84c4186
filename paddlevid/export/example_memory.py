"""The classes of a video while it runs (ECO), without paddlevid: python example.py VIDEO

Of each frame the 2-D part is computed once. With every N-th frame the memory is made anew: half of
it from the newest N, half from what it held, which so thins out; the 3-D part scores it.
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
mean, std = np.float32(meta["mean"]), np.float32(meta["std"])  # RGB, of values in 0 .. 1
size, max_blocks = meta["sampling"]["frames"], meta["sampling"]["blocks"]


def load(name):
    """One of the programs, as a function: arrays -> arrays."""
    config = Config(*(str(here / file) for file in meta["programs"][name]["files"]))
    config.disable_glog_info()
    config.disable_gpu()
    config.enable_mkldnn()  # oneDNN
    config.delete_pass("inplace_pass")  # in Paddle 3.3 it overwrites what is still to be read
    predictor = create_predictor(config)
    names = [item["name"] for item in meta["programs"][name]["inputs"]]

    def run(*arrays):
        for name, array in zip(names, arrays, strict=True):
            handle = predictor.get_input_handle(name)
            handle.copy_from_cpu(np.ascontiguousarray(array, np.float32))
        predictor.run()
        return [predictor.get_output_handle(n).copy_to_cpu() for n in predictor.get_output_names()]

    return run


def thin_out(blocks):
    """Of the newest block half of the memory, of the one before half of the rest, and so on."""
    counts, rest = [], size
    while rest > 1 and len(counts) + 1 < min(len(blocks), max_blocks):
        counts.append((rest + 1) // 2)
        rest -= counts[-1]
    counts.append(rest)
    pairs = zip(blocks[-len(counts) :], reversed(counts), strict=True)
    return [[b[i] for i in np.rint(np.linspace(0, len(b) - 1, n)).astype(int)] for b, n in pairs]


of_frame, fuse = load("frame"), load("fuse")
blocks, newest, scores, seen = [], [], None, 0
for number, (frame, _) in enumerate(decoded(sys.argv[1])):
    if number % meta["sampling"]["interval"]:
        continue
    upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)
    image = resize(np.ascontiguousarray(upright), meta["resize"])
    [clip] = views(image[None], meta["crop"])  # (1, H, W, 3)
    newest.append(of_frame(((clip / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)))
    if len(newest) < size:
        continue
    blocks, newest = thin_out([*blocks, newest]), []
    memory = [kept for block in blocks for kept in block]
    [logits] = fuse(*(np.stack(part, axis=1) for part in zip(*memory, strict=True)))[0]
    now = np.exp(logits - logits.max())
    now /= now.sum()
    scores = now if scores is None else (scores + now) / 2
    best = np.argsort(-scores, kind="stable")[:5]
    row = {meta["classes"][label]: round(float(scores[label]), 6) for label in best}
    print(json.dumps({"frame": number, "scores": row}, ensure_ascii=False), flush=True)
