"""CNN features and a recurrent network (Hands-On Computer Vision with TensorFlow 2, chapter 8).

The features of frames come from a CNN that is not trained along (paddlevid/features.py). As the
chapter's network in Keras, layer by layer.
"""

import paddle.nn.functional as F
from paddle import Tensor, nn

from paddlevid.layers.recurrent import RecurrentStack, average_over_frames, seen_frames


class CNNLSTM(nn.Layer):
    """Features of frames -> recurrent layers -> dense, ReLU -> dropout -> linear.

    A step whose numbers are all 0 is passed over, wherever it is: so a clip that is padded with
    zeros says what it says without them.

    Args:
        num_classes: K.
        features: D, numbers of a frame.
        hidden: H of the recurrent layers.
        cell: "lstm", "gru" or "rnn".
        num_layers: recurrent layers.
        bidirectional: forwards and backwards.
        dropout: of the features, one draw for all frames of a clip.
        recurrent_dropout: likewise, of the state.
        dense: numbers of the dense layer.
        dense_dropout: behind it.
        average: average what it says after each frame, instead of what it says after the last.
        k1, k2: truncated back-propagation: every k1 steps the gradient goes k2 steps back; 0: all.
    """

    classifier = "fc"

    def __init__(
        self,
        num_classes: int,
        *,
        features: int = 2048,
        hidden: int = 512,
        cell: str = "lstm",
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.5,
        recurrent_dropout: float = 0.5,
        dense: int = 256,
        dense_dropout: float = 0.5,
        average: bool = False,
        k1: int = 0,
        k2: int = 0,
    ) -> None:
        super().__init__()
        if dense < 1 or not 0 <= dense_dropout < 1:
            raise ValueError(
                f"dense = {dense} needs at least 1, dense_dropout = {dense_dropout} a number from "
                "0 to below 1"
            )
        self.recurrent = RecurrentStack(
            features, hidden, cell, num_layers, bidirectional, (k1, k2),
            dropout=dropout, recurrent_dropout=recurrent_dropout,
        )  # fmt: skip
        self.average = average
        self.dense = nn.Linear(self.recurrent.c_out, dense)
        self.dropout = nn.Dropout(dense_dropout)
        self.fc = nn.Linear(dense, num_classes)
        for layer in (self.dense, self.fc):
            nn.initializer.XavierUniform()(layer.weight)
            nn.initializer.Constant(0.0)(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(N, T, D) -> (N, K) logits, for any T"""
        seen = seen_frames(features)
        states, last = self.recurrent(features, seen)
        if self.average:
            return average_over_frames(self._classify(states), seen)
        return self._classify(last)

    def frame_logits(self, features: Tensor) -> Tensor:
        """What it would say of the clip up to each frame: (N, T, D) -> (N, T, K)"""
        states, _ = self.recurrent(features, seen_frames(features))
        return self._classify(states)

    def _classify(self, states: Tensor) -> Tensor:
        return self.fc(self.dropout(F.relu(self.dense(states))))


def cnn_lstm(num_classes: int, **arguments: object) -> CNNLSTM:
    """The chapter's network; its features are InceptionV3's."""
    return CNNLSTM(num_classes, **arguments)
