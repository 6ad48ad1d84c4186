"""The classes of a clip from features of its frames, without paddlevid: python example.py FILE.npy

The file has a row for each frame, float32 (T, D), of the trunk that metadata.json names.
"""

import json
import sys
from pathlib import Path

import numpy as np
from paddle.inference import Config, create_predictor

if len(sys.argv) != 2:
    sys.exit("usage: python example.py FILE.npy")
here = Path(__file__).resolve().parent
meta = json.loads((here / "metadata.json").read_text(encoding="utf-8"))

try:
    rows = np.load(sys.argv[1], allow_pickle=False).astype(np.float32)
except (OSError, ValueError, EOFError) as error:
    sys.exit(f"{sys.argv[1]} cannot be read as features: {error}")
width = meta["programs"]["model"]["inputs"][0]["shape"][-1]
if rows.ndim != 2 or rows.shape[1] != width:
    sys.exit(f"{sys.argv[1]} has the shape {rows.shape}, the program takes (T, {width})")
missing = meta["sampling"]["frames"] - len(rows)  # rows of zeros are passed over
if missing < 0:
    sys.exit(f"{sys.argv[1]} has {len(rows)} rows, the program takes {len(rows) + missing}")
features = np.pad(rows, [(0, missing), (0, 0)])[None]  # (N, T, D)

config = Config(*(str(here / file) for file in meta["programs"]["model"]["files"]))
config.disable_glog_info()
config.disable_gpu()
config.enable_mkldnn()  # oneDNN
config.delete_pass("inplace_pass")  # in Paddle 3.3 it overwrites what is still to be read
predictor = create_predictor(config)
predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(features)
predictor.run()
[logits] = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()

scores = np.exp(logits - logits.max())
scores /= scores.sum()
for label in np.argsort(-scores, kind="stable")[:5]:
    print(f"{scores[label]:.6f}  {meta['classes'][label]}")
