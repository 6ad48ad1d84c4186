"""What other projects call the tensors of our networks."""

import re
from collections.abc import Callable
from dataclasses import dataclass

Mean = tuple[float, float, float]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation, RGB, of 0 .. 1
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class Project:
    """Who wrote a file, and how names and pictures of theirs become ours.

    The rules are patterns and replacements that are applied to a name one after the other. `#q`,
    `#k`, `#v`, or `#x`, `#h`, behind a name mark parts that are joined to one tensor, `#T` one to
    transpose.
    """

    name: str
    rules: tuple[tuple[str, str | Callable[[re.Match], str]], ...] = ()
    normalization: tuple[Mean, Mean] | None = None
    bgr: bool = False  # its first convolution takes the colours as blue, green, red

    def our_name(self, name: str) -> str:
        """A tensor's name in our network, whether there is such a tensor or not."""
        name = name if self is OURS else _WRAPPERS.sub("", name)
        for pattern, replacement in (*self.rules, *_STATISTICS):
            name = re.sub(pattern, replacement, name)
        return name


OURS = Project("paddlevid")

# What training programs put before all names.
_WRAPPERS = re.compile(r"^((module|model|_orig_mod|backbone|base_model)\.)+")
_STATISTICS = ((r"\.running_mean$", "._mean"), (r"\.running_var$", "._variance"))

# Tensors that no network of ours has, by our name: why they are left out.
LEFT_OUT = (
    (r"\.num_batches_tracked$", "a count of batches, which Paddle does not keep"),
    (r"^AuxLogits\.", "the auxiliary classifier, of use in training alone"),
    (r"^(classifier|fc)\.", "the image classifier, which a trunk does without"),
    (r"^appearance\.", "the 2D-S branch, which ECO Lite does not have"),
    (r"^(vit\.pooler|pre_logits)\.", "a layer behind the class token, which is trained anew"),
    (r"^cell_list\.\d+\.conv_(o|last)\.", "a convolution that its network does not use"),
)

_TRUNK = (r"^(?=(conv1|bn1|layer\d)\.)", "trunk.")


def _block(match: re.Match) -> str:
    """res4c, and res4b2 in the deeper networks -> layer3.2"""
    stage, letter, number = match.groups()
    return f"layer{int(stage) - 1}.{number or ord(letter) - ord('a')}."


_TSN = (
    OURS,
    Project("torchvision or paddle.vision", (_TRUNK,), IMAGENET),
    Project(
        "mmaction2",
        (
            (r"conv(\d)\.conv\.", r"conv\1."),
            (r"conv(\d)\.bn\.", r"bn\1."),
            (r"downsample\.conv\.", "downsample.0."),
            (r"downsample\.bn\.", "downsample.1."),
            (r"^cls_head\.fc_cls\.", "fc."),
            _TRUNK,
        ),
        IMAGENET,
    ),
    Project(
        "PaddleVideo",
        (
            (r"^conv\._conv\.", "conv1."),
            (r"^conv\._batch_norm\.", "bn1."),
            (r"^res(\d)([a-z])(\d*)\.", _block),
            (r"short\._conv\.", "downsample.0."),
            (r"short\._batch_norm\.", "downsample.1."),
            (r"conv(\d)\._conv\.", lambda match: f"conv{int(match[1]) + 1}."),
            (r"conv(\d)\._batch_norm\.", lambda match: f"bn{int(match[1]) + 1}."),
            (r"^head\.fc\.", "fc."),
            _TRUNK,
        ),
        IMAGENET,
    ),
)

_ECO = (
    OURS,
    Project(
        "ECO-pytorch",
        (
            (r"^conv1_7x7_s2", "conv1"),
            (r"^conv2_3x3_reduce", "conv2_reduce"),
            (r"^conv2_3x3", "conv2"),
            # the double branches of 3c and 4e begin outside their blocks
            (r"^inception_(3c|4e)_double_3x3_reduce", r"double_\1.0"),
            (r"^inception_(3c|4e)_double_3x3_1", r"double_\1.1"),
            (r"^inception_(3c|4e)_double_3x3_2", r"inception_\1.double_end"),
            (r"_double_3x3_reduce", ".double_branch.0"),
            (r"_double_3x3_([12])", r".double_branch.\1"),
            (r"_3x3_reduce", ".single_branch.0"),
            (r"_3x3", ".single_branch.1"),
            (r"_1x1", ".conv_1x1"),
            (r"_pool_proj", ".pool_proj"),
            (r"^((?:conv|inception|double).*)_bn\.", r"\1.bn."),
            (r"^((?:conv|inception|double)(?!.*\.bn\.).*)\.", r"\1.conv."),
            (r"^(?=inception_(3c|4.|5.)|double_4e)", "appearance."),
            # the 3-D network
            (r"^res3a_2n?\.", "tail.res3a."),
            (r"^res3a_bn\.", "tail.res3a_bn."),
            (r"^(res\d[ab])_(\d)\.", r"tail.\1.conv_\2."),
            (r"^(res\d[ab])_(\d)_bn\.", r"tail.\1.bn_\2."),
            (r"^(res\d[ab])_bn\.", r"tail.\1.bn."),
            (r"^(res\d[ab])_down\.", r"tail.\1.down."),
            (r"^(new_fc|fc_final|fc8\w?)\.", "fc."),
        ),
        ((128 / 255, 117 / 255, 104 / 255), (1 / 255, 1 / 255, 1 / 255)),
        bgr=True,
    ),
)

_FACEBOOK = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
_HUGGING_FACE = (
    (r"^(timesformer|vit)\.embeddings\.cls_token", "cls_token"),
    (r"^(timesformer|vit)\.embeddings\.position_embeddings", "pos_embed"),
    (r"^(timesformer|vit)\.embeddings\.time_embeddings", "time_embed"),
    (r"^(timesformer|vit)\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(timesformer|vit)\.(?:encoder\.layer|layers)\.", "blocks."),
    (r"^(timesformer|vit)\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.temporal_layernorm\.", ".temporal_norm1."),
    (r"\.temporal_dense\.", ".temporal_fc."),
    (r"\.temporal_attention\.attention\.qkv\.", ".temporal_attn.qkv."),
    (r"\.temporal_attention\.output\.dense\.", ".temporal_attn.proj."),
    (r"\.attention\.attention\.qkv\.", ".attn.qkv."),
    (r"\.attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.(\w+)$", r".attn.qkv.\2#\1"),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
_MMACTION2_BLOCK = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^transformer_layers\.layers\.", "blocks."),
    (r"\.attn\.in_proj_(weight|bias)", r".attn.qkv.\1"),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.ffns\.0\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffns\.0\.layers\.1\.", ".mlp.fc2."),
    (r"\.ffns\.0\.norm\.", ".norm2."),
    (r"^cls_head\.fc_cls\.", "head."),
)

_TIMESFORMER = (
    OURS,
    Project("TimeSformer, PaddleVideo or timm", ((r"^head\.fc\.", "head."),), _FACEBOOK),
    Project("Hugging Face", _HUGGING_FACE, _FACEBOOK),
    Project(
        "mmaction2, divided attention",
        (
            *_MMACTION2_BLOCK,
            (r"\.attentions\.0\.norm\.", ".temporal_norm1."),
            (r"\.attentions\.0\.attn\.", ".temporal_attn."),
            (r"\.attentions\.0\.temporal_fc\.", ".temporal_fc."),
            (r"\.attentions\.1\.norm\.", ".norm1."),
            (r"\.attentions\.1\.attn\.", ".attn."),
        ),
        HALF,
    ),
    Project(
        "mmaction2, joint attention or space alone",
        (
            *_MMACTION2_BLOCK,
            (r"\.attentions\.0\.attn\.", ".attn."),
            (r"\.norms\.0\.", ".norm1."),
            (r"\.norms\.1\.", ".norm2."),
        ),
        HALF,
    ),
)

_MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")

_INCEPTION_V3 = (
    OURS,
    Project(
        "torchvision",
        (
            (r"^Conv2d_(\d[ab]_\dx\d)\.", r"inception_stem.conv_\1."),
            (
                r"^Mixed_(\d[a-e])\.",
                lambda match: f"inception_block_list.{_MIXED.index(match[1])}.",
            ),
            (r"\.branch_pool\.", ".branch_pool_conv."),
            (r"^(inception_\w+\..*)\.conv\.", r"\1.0."),
            (r"^(inception_\w+\..*)\.bn\.", r"\1.1."),
        ),
        HALF,
    ),
)

_RESNET = (
    OURS,
    *(
        Project(project.name, tuple(rule for rule in project.rules if rule is not _TRUNK), IMAGENET)
        for project in _TSN[1:]
    ),
)

_LRCN = (
    OURS,
    Project(
        "torchvision or paddle.vision",
        ((r"^(?=(conv1|bn1|layer\d|features)\.)", "trunk."),),
        IMAGENET,
    ),
    *_TSN[2:],
)

_KERAS_LSTM = r"^(?:.*/)?lstm(?:_\d+)?/lstm_cell(?:_\d+)?/"
_CNN_LSTM = (
    OURS,
    Project(
        "Keras",
        (
            (r":0$", ""),
            (_KERAS_LSTM + "kernel$", "recurrent.layers.0.weight_ih#T"),
            (_KERAS_LSTM + "recurrent_kernel$", "recurrent.layers.0.weight_hh#T"),
            (_KERAS_LSTM + "bias$", "recurrent.layers.0.bias"),
            (r"^(?:.*/)?dense/kernel$", "dense.weight"),
            (r"^(?:.*/)?dense/bias$", "dense.bias"),
            (r"^(?:.*/)?dense_1/kernel$", "fc.weight"),
            (r"^(?:.*/)?dense_1/bias$", "fc.bias"),
        ),
        HALF,
    ),
)

_FROM_0_TO_1 = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_TENSORFLOW_NORMS = (
    (r"/gamma$", ".weight"),
    (r"/beta$", ".bias"),
    (r"/moving_mean$", "._mean"),
    (r"/moving_variance$", "._variance"),
)
_MOVINET = (
    OURS,
    Project(
        "MoViNet-pytorch",
        (
            (r"^classifier\.0\.conv_1\.conv[23]d\.", "fc.dense."),
            (r"^classifier\.3\.conv_1\.conv[23]d\.", "fc."),
            (r"^conv1\.", "stem."),
            (r"^conv7\.", "head."),
            (r"^blocks\.b(\d)_l(\d+)\.", r"stages.\1.\2."),
            (r"\.deep\.conv_1\.", ".depthwise.0."),
            (r"\.deep\.conv_2\.", ".depthwise.1."),
            (r"\.se\.fc1\.conv_1\.conv[23]d\.", ".se.reduce."),
            (r"\.se\.fc2\.conv_1\.conv[23]d\.", ".se.expand."),
            (r"\.res\.[01]\.", ".skip."),
            (r"\.conv_1\.", "."),
            (r"\.conv[23]d\.", ".conv."),
        ),
        _FROM_0_TO_1,
    ),
    Project(
        "PaddleVideo",
        (
            (r"^classifier\.0\.conv_1\.0\.", "fc.dense."),
            (r"^classifier\.3\.conv_1\.0\.", "fc."),
            (r"^conv1\.", "stem."),
            (r"^conv7\.", "head."),
            (r"^blocks\.(\d+)\.", lambda match: f"layer.{int(match[1]) + 1}."),
            (r"\.deep\.conv_1\.", ".depthwise.0."),
            (r"\.deep\.conv_2\.", ".depthwise.1."),
            (r"\.se\.fc1\.conv_1\.0\.", ".se.reduce."),
            (r"\.se\.fc2\.conv_1\.0\.", ".se.expand."),
            (r"\.res\.[01]\.", ".skip."),
            (r"\.conv_1\.", "."),
            (r"\.0\.(weight|bias)$", r".conv.\1"),
            (r"\.1\.(weight|bias|_mean|_variance)$", r".norm.\1"),
        ),
        IMAGENET,
    ),
    Project(
        "TensorFlow Model Garden, checkpoint",
        (
            (r"^layer_with_weights-1/_classifier/_conv/(?:_conv/)?", "fc/"),
            (r"^layer_with_weights-1/_head/_conv/(?:_conv/)?", "fc.dense/"),
            (r"^layer_with_weights-0/layer_with_weights-(\d+)/", r"layer.\1."),
            (r"^(layer\.\d+\.)_(stem|project)/", r"\1"),
            (r"\._expansion/", ".expand."),
            (r"\._feature/_batch_norm_temporal", ".depthwise.1.norm"),
            (r"\._feature/_conv_temporal", ".depthwise.1.conv"),
            (r"\._feature/", ".depthwise.0."),
            (r"\._projection/", ".project."),
            (r"\._attention/_se_reduce/_conv", ".se.reduce"),
            (r"\._attention/_se_expand/_conv", ".se.expand"),
            (r"\._attention/_pos_encoding/_rezero/", ".se."),
            (r"\._mobile_bottleneck/_rezero/scale$", ".alpha"),
            (r"\._skip/_projection/", ".skip."),
            (r"_batch_norm/", "norm/"),
            (r"(^|\.)_conv/", r"\1conv/"),
            (r"/_conv/", "/"),
            *_TENSORFLOW_NORMS,
            (r"/(?:depthwise_)?kernel$", ".weight"),
            (r"/bias$", ".bias"),
        ),
        _FROM_0_TO_1,
    ),
    Project(
        "TensorFlow Model Garden, SavedModel",
        (
            (r":0$", ""),
            (r"^classifier_head(?:_\d+)?/classifier/.*/", "fc/"),
            (r"^classifier_head(?:_\d+)?/head/.*/", "fc.dense/"),
            (r"^stem/stem/", "stem."),
            (r"^head/project/", "head."),
            (r"^b(?:lock)?(\d)[_/]l(?:ayer)?(\d+)/", r"stages.\1.\2."),
            (r"\.bneck/", "."),
            (r"\.expansion/", ".expand."),
            (r"\.feature/conv2d_temporal/bn_temporal/", ".depthwise.1.norm/"),
            (r"\.feature/conv2d_temporal/", ".depthwise.1."),
            (r"\.feature/", ".depthwise.0."),
            (r"\.projection/", ".project."),
            (r"\.se/se_(reduce|expand)/.*/", r".se.\1/"),
            (r"\.skip/skip_project/", ".skip."),
            (r"\.scale$", ".alpha"),
            (r"\.(?:conv2d/)?bn/", ".norm/"),
            (r"\.(?:conv2d/|conv3d/|depthwise_)\S*kernel$", ".conv.weight"),
            *_TENSORFLOW_NORMS,
            (r"/kernel$", ".weight"),
            (r"/bias$", ".bias"),
        ),
        _FROM_0_TO_1,
    ),
)

_CONVLSTM = (
    OURS,
    Project(
        "Video-Prediction-using-PyTorch",
        (
            (r"^encoder_(\d+)_convlstm\.", lambda match: f"encoder.{int(match[1]) - 1}."),
            (r"^decoder_(\d+)_convlstm\.", lambda match: f"decoder.{int(match[1]) - 1}."),
            (r"^decoder_CNN\.", "head."),
        ),
        _FROM_0_TO_1,
    ),
    Project(
        "ConvLSTM_pytorch, cells alone",
        ((r"^cell_list\.(\d+)\.conv\.", r"encoder.\1.conv."),),
        _FROM_0_TO_1,
    ),
    Project(
        "OpenSTL",
        (
            (r"^cell_list\.(\d+)\.conv_([xh])\.0\.weight$", r"encoder.\1.conv.weight#\2"),
            (r"^conv_last\.", "head."),
        ),
        _FROM_0_TO_1,
    ),
)

# By the class of a network; the first of equals is taken.
PROJECTS = {
    "TSN": _TSN,
    "ECO": _ECO,
    "TimeSformer": _TIMESFORMER,
    "VGG": (OURS, Project("torchvision or paddle.vision", (), IMAGENET)),
    "InceptionV3Trunk": _INCEPTION_V3,
    "ResNet": _RESNET,
    "NarrowResNet": _RESNET,
    "LRCN": _LRCN,
    "CNNLSTM": _CNN_LSTM,
    "MoViNet": _MOVINET,
    "MoViNetStream": _MOVINET,
    "ConvLSTM": _CONVLSTM,
}
