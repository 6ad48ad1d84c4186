"""movinet_*.npz: small networks of the authors' code with random weights, and what they say.

Made with tensorflow-cpu 2.20 and tf-models-official 2.20 (official.projects.movinet):
    python tests/data/make_movinet.py
"""

import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from official.projects.movinet.modeling import movinet, movinet_model

STAGES = [(8, [(24, 1, 5)]), (16, [(40, 5, 3), (40, 3, 3)]), (24, [(48, 3, 3)])]


def table() -> tuple:
    """The layers, as the authors' code wants them."""
    blocks = [movinet.StemSpec(filters=8, kernel_size=(1, 3, 3), strides=(1, 2, 2))]
    for channels, layers in STAGES:
        blocks.append(
            movinet.MovinetBlockSpec(
                base_filters=channels,
                expand_filters=tuple(expanded for expanded, _, _ in layers),
                kernel_sizes=tuple((time, space, space) for _, time, space in layers),
                strides=tuple((1, 1, 1) if i else (1, 2, 2) for i in range(len(layers))),
            )
        )
    blocks.append(movinet.HeadSpec(project_filters=32, head_filters=40))
    return tuple(blocks)


def randomize(variables: list, rng: np.random.Generator) -> None:
    """Numbers that keep the size of what passes, and that float16 holds exactly."""
    for variable in variables:
        shape = tuple(variable.shape)
        if "moving_variance" in variable.name or "gamma" in variable.name:
            values = rng.uniform(0.5, 1.5, shape)
        elif len(shape) < 2:
            values = rng.uniform(-0.5, 0.5, shape)
        else:
            fan_in = np.prod(shape[:2] if "depthwise" in variable.name else shape[:-1])
            values = rng.normal(0, 1 / np.sqrt(fan_in), shape)
        variable.assign(values.astype(np.float16).astype(np.float32))


def write(name: str, causal: bool, positions: bool = False) -> None:
    """Write movinet_NAME.npz: the checkpoint's arrays, a clip, and the logits."""
    rng = np.random.default_rng(0)
    clip = rng.uniform(0, 1, (2, 5, 21, 30, 3)).astype(np.float16).astype(np.float32)
    more = {}
    if causal:
        more = {
            "conv_type": "2plus1d", "se_type": "2plus3d", "activation": "hard_swish",
            "gating_activation": "hard_sigmoid", "use_external_states": True,
            "use_positional_encoding": positions,
        }  # fmt: skip
    movinet.BLOCK_SPECS["a0"] = table()
    backbone = movinet.Movinet(model_id="a0", causal=causal, **more)
    model = movinet_model.MovinetClassifier(backbone, num_classes=3, output_states=causal)
    model.build([1, *clip.shape[1:]])
    randomize(model.variables, rng)
    logits = {}
    if causal:
        for key, cuts in (("whole", [5]), ("chunks", [2, 5])):
            state, start = model.init_states([2, *clip.shape[1:]]), 0
            for end in cuts:
                inputs = {**state, "image": tf.constant(clip[:, start:end])}
                logits[key if end == 5 else "first"], state = model(inputs)
                start = end
    else:
        logits["whole"] = model(clip)
    with tempfile.TemporaryDirectory() as folder:
        path = tf.train.Checkpoint(model=model).save(f"{folder}/ckpt")
        reader = tf.train.load_checkpoint(path)
        arrays = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}
    ending = "/.ATTRIBUTES/VARIABLE_VALUE"
    kept = {
        key.removesuffix(ending).removeprefix("model/"): array.astype(np.float16)
        for key, array in arrays.items()
        if "layer_with_weights" in key
    }
    results = {f"__{key}": tensor.numpy() for key, tensor in logits.items()}
    target = Path(__file__).with_name(f"movinet_{name}.npz")
    np.savez_compressed(target, __clip=clip.astype(np.float16), **kept, **results)


if __name__ == "__main__":
    write("base", causal=False)
    write("stream", causal=True)
    write("positions", causal=True, positions=True)
