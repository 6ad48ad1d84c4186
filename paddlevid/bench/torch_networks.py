"""The same networks in PyTorch, written as its users write them, to be measured beside ours."""

import contextlib
import math
from collections.abc import Callable
from functools import partial
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from paddlevid.bench.torch_eco import ECO
from paddlevid.bench.torch_movinet import MoViNet
from paddlevid.runtime import usable_cores


def import_torchvision() -> ModuleType:
    """torchvision, also a build for CUDA beside a PyTorch for CPU.

    Of its operators two are missing then, which no image network uses.
    """
    try:
        import torchvision
    except RuntimeError:
        operators = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_torchvision.operators = operators  # they live as long as it does
        import torchvision
    return torchvision


def resnet(depth: int, width: int = 64) -> nn.Module:
    """torchvision's ResNet without its classifier: (N, 3, H, W) -> (N, D)

    Another width than 64 is for depth 18 and 34.
    """
    network = getattr(import_torchvision().models, f"resnet{depth}")(weights=None)
    network.fc = nn.Identity()
    if width == 64:
        return network
    network.inplanes = width
    network.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    network.bn1 = nn.BatchNorm2d(width)
    for stage, name in enumerate(("layer1", "layer2", "layer3", "layer4")):
        layer = getattr(network, name)
        layer = network._make_layer(
            type(layer[0]), width * 2**stage, len(layer), stride=2 if stage else 1
        )
        setattr(network, name, layer)
    return network


class TSN(nn.Module):
    """tsn_r18 to tsn_r152."""

    def __init__(
        self,
        depth: int,
        num_classes: int,
        dropout: float = 0.4,
        in_channels: int = 3,
        width: int = 64,
        partial_bn: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = resnet(depth, width)
        if in_channels != 3:
            self.trunk.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.trunk.inplanes, num_classes)
        norms = [module for module in self.trunk.modules() if isinstance(module, nn.BatchNorm2d)]
        self._frozen = norms[1:] if partial_bn else []
        for norm in self._frozen:
            norm.requires_grad_(False)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> (N, K)"""
        features = self.trunk(clip.transpose(1, 2).flatten(0, 1))  # (N·T, D)
        return self.fc(self.dropout(features.unflatten(0, (clip.shape[0], -1)).mean(1)))

    def train(self, mode: bool = True) -> "TSN":
        """Training mode, in which the frozen batch norms keep their statistics."""
        super().train(mode)
        for norm in self._frozen:
            norm.eval()
        return self


class LRCN(nn.Module):
    """lrcn_vgg16 (depth 0) and lrcn_r18 to lrcn_r50.

    As of `CNNLSTM` the dropout of the state is left out, and frames of zeros are not passed over.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int,
        width: int = 64,
        trained_blocks: int = 1,
        grid: int = 7,
        reduced: int = 2048,
        relu: bool = False,
        cell: str = "gru",
        hidden: int = 1024,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.5,
        average: bool = False,
    ) -> None:
        super().__init__()
        self.hidden, self.bidirectional, self.average = hidden, bidirectional, average
        if depth:
            self.trunk = resnet(depth, width)
            blocks = [[getattr(self.trunk, f"layer{stage}")] for stage in (1, 2, 3, 4)]
            blocks = [[self.trunk.conv1, self.trunk.bn1], *blocks]
            features = self.trunk.inplanes
        else:
            self.trunk = import_torchvision().models.vgg16(weights=None)
            self.trunk.classifier = nn.Identity()
            layers = list(self.trunk.features)
            ends = [i + 1 for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
            blocks = [layers[start:end] for start, end in zip([0, *ends], ends, strict=False)]
            features = 512
        self._frozen = [layer for block in blocks[: 5 - trained_blocks] for layer in block]
        for layer in self._frozen:
            layer.requires_grad_(False)
        self.trunk.avgpool = nn.AdaptiveAvgPool2d(grid)
        self.reduce = nn.Linear(features * grid**2, reduced)
        self.act = nn.ReLU() if relu else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.input_dropout = nn.Dropout1d(dropout)
        kinds = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}
        if cell not in kinds:
            raise ValueError(f"cell = {cell!r}: needs one of {', '.join(kinds)}")
        self.recurrent = kinds[cell](
            reduced, hidden, num_layers, batch_first=True, bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,
        )  # fmt: skip
        self.fc = nn.Linear(hidden * (1 + bidirectional), num_classes)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """(N, 3, T, H, W) -> (N, K)"""
        features = self.trunk(clip.transpose(1, 2).flatten(0, 1))  # (N·T, D · grid²)
        steps = self.dropout(self.act(self.reduce(features))).unflatten(0, (clip.shape[0], -1))
        steps = self.input_dropout(steps.transpose(1, 2)).transpose(1, 2)  # one draw for all steps
        states, _ = self.recurrent(steps)
        if self.average:
            logs = self.fc(states).log_softmax(2)
            return logs.logsumexp(1) - math.log(clip.shape[2])
        last = states[:, -1]
        if self.bidirectional:
            last = torch.cat([last[:, : self.hidden], states[:, 0, self.hidden :]], 1)
        return self.fc(last)

    def train(self, mode: bool = True) -> "LRCN":
        """Training mode, in which the frozen blocks' batch norms keep their statistics."""
        super().train(mode)
        for layer in self._frozen:
            layer.eval()
        return self


class TimeSformer(nn.Module):
    """timesformer_base, _hr and _large: Hugging Face's network."""

    ATTENTIONS = {
        "divided": "divided_space_time", "joint": "joint_space_time", "space": "space_only"
    }  # fmt: skip

    def __init__(
        self,
        num_classes: int,
        num_frames: int = 8,
        image_size: int = 224,
        patch_size: int = 16,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        attention: str = "divided",
        drop_path: float = 0.1,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        with contextlib.suppress(ImportError):
            import_torchvision()  # transformers imports it where it is installed
        try:
            from transformers import TimesformerConfig, TimesformerForVideoClassification
        except ImportError as error:
            raise ImportError(
                f"TimeSformer in PyTorch is that of the package transformers: {error}"
            ) from error
        self.attention = attention
        config = TimesformerConfig(
            num_frames=num_frames, image_size=image_size, patch_size=patch_size, hidden_size=dim,
            num_hidden_layers=depth, num_attention_heads=num_heads,
            intermediate_size=int(dim * mlp_ratio), drop_path_rate=1, num_labels=num_classes,
            attention_type=self.ATTENTIONS.get(attention, attention), initializer_range=init_std,
        )  # fmt: skip
        self.model = TimesformerForVideoClassification(config)
        rates = torch.linspace(0, drop_path, depth).tolist()  # the configuration takes 0 and 1 only
        for layer, rate in zip(self.model.timesformer.encoder.layer, rates, strict=True):
            layer.drop_path.drop_prob = rate

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """(N, 3, T, H, W) -> (N, K)"""
        n, _, t, _, w = clip.shape
        config = self.model.config
        config.num_frames, config.image_size = t, w  # its blocks read them to tell frames apart
        if self.attention != "space":
            return self.model(clip.transpose(1, 2)).logits
        network = self.model.timesformer  # which forgets to average the frames
        output = network(clip.transpose(1, 2), output_hidden_states=True)
        cls = output.hidden_states[-1][:, 0].unflatten(0, (n, t)).mean(1)
        return self.model.classifier(network.layernorm(cls))


class CNNLSTM(nn.Module):
    """cnn_lstm; the dropout of the state is left out, as torch.nn.LSTM has none."""

    def __init__(self, num_classes: int, features: int = 2048, hidden: int = 512) -> None:
        super().__init__()
        self.dropout = nn.Dropout1d(0.5)
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.head = nn.Sequential(
            nn.Linear(hidden, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, num_classes)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, T, D) -> (N, K)"""
        steps = self.dropout(features.transpose(1, 2)).transpose(1, 2)  # one draw for all steps
        return self.head(self.lstm(steps)[0][:, -1])


class ConvLSTMCell(nn.Module):
    """A cell of ConvLSTM; the names are those of ndrplz/ConvLSTM_pytorch."""

    def __init__(self, c_in: int, hidden: int, kernel_size: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.conv = nn.Conv2d(c_in + hidden, 4 * hidden, kernel_size, padding=kernel_size // 2)

    def forward(
        self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, C, h, w), H and C -> H and C"""
        i, f, o, g = self.conv(torch.cat([x, state[0]], 1)).split(self.hidden, 1)
        c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class ConvLSTM(nn.Module):
    """convlstm as the book has it; the names are those of holmdk/Video-Prediction-using-PyTorch."""

    def __init__(self, hidden: int = 64, kernel_size: int = 3) -> None:
        super().__init__()
        self.hidden = hidden
        self.encoder_1_convlstm = ConvLSTMCell(1, hidden, kernel_size)
        self.encoder_2_convlstm = ConvLSTMCell(hidden, hidden, kernel_size)
        self.decoder_1_convlstm = ConvLSTMCell(hidden, hidden, kernel_size)
        self.decoder_2_convlstm = ConvLSTMCell(hidden, hidden, kernel_size)
        self.decoder_CNN = nn.Conv3d(hidden, 1, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, past: torch.Tensor, num_future: int = 10) -> torch.Tensor:
        """(N, 1, T, H, W) -> (N, 1, n, H, W)"""
        n, _, _, h, w = past.shape
        zeros = past.new_zeros(n, self.hidden, h, w)
        e1 = e2 = d1 = d2 = (zeros, zeros)
        for x in past.unbind(2):
            e1 = self.encoder_1_convlstm(x, e1)
            e2 = self.encoder_2_convlstm(e1[0], e2)
        maps = [e2[0]]
        for _ in range(num_future):
            d1 = self.decoder_1_convlstm(maps[-1], d1)
            d2 = self.decoder_2_convlstm(d1[0], d2)
            maps.append(d2[0])
        return torch.sigmoid(self.decoder_CNN(torch.stack(maps[1:], 2)))


def create(name: str, num_classes: int, arguments: dict) -> nn.Module:
    """A network with fresh weights; ValueError where there is none of this name.

    Raises TypeError for an argument that it does not have here.
    """
    networks = {
        **{f"tsn_r{depth}": partial(TSN, depth) for depth in (18, 34, 50, 101, 152)},
        "eco_lite": partial(ECO, False, dropout_3d=0.6),
        "eco_full": partial(ECO, True),
        "timesformer_base": TimeSformer,
        "timesformer_hr": partial(TimeSformer, num_frames=16, image_size=448),
        "timesformer_large": partial(TimeSformer, num_frames=96),
        "cnn_lstm": CNNLSTM,
        "lrcn_vgg16": partial(LRCN, 0),
        **{f"lrcn_r{depth}": partial(LRCN, depth) for depth in (18, 34, 50)},
        "movinet_a0": MoViNet,
        "movinet_a0_stream": partial(MoViNet, stream=True),
        "convlstm": lambda _, **arguments: ConvLSTM(**arguments),
    }
    if name not in networks:
        raise ValueError(
            f"no {name} to compare with in PyTorch: there are {', '.join(networks)}, and for "
            "features the trunks"
        )
    return networks[name](num_classes, **arguments)


def train_step(model: nn.Module, clips: NDArray, labels: NDArray) -> Callable[[], None]:
    """A function that makes a step with Momentum on a batch; half of a ConvLSTM's is the past."""
    torch.set_num_threads(usable_cores())
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9, weight_decay=1e-4)
    model.train()

    def step() -> None:
        batch = torch.from_numpy(clips)
        if isinstance(model, ConvLSTM):
            past, future = batch.chunk(2, dim=2)
            loss = nn.functional.mse_loss(model(past, future.shape[2]), future)
        else:
            loss = nn.functional.cross_entropy(model(batch), torch.from_numpy(labels))
        loss.backward()
        loss.item()
        optimizer.step()
        optimizer.zero_grad()

    return step


def infer(model: nn.Module, clips: NDArray) -> Callable[[], None]:
    """A function that passes a batch through the network in evaluation mode."""
    torch.set_num_threads(usable_cores())
    model.eval()

    def run() -> None:
        with torch.no_grad():
            model(torch.from_numpy(clips)).numpy()

    return run


def extractor(name: str, mean: tuple, std: tuple) -> Callable[[NDArray[np.uint8]], NDArray]:
    """A function from frames (N, H, W, 3) to the averages of a trunk's maps (N, D)."""
    models = import_torchvision().models
    torch.set_num_threads(usable_cores())
    if name == "inception_v3":
        network = models.inception_v3(weights=None, init_weights=False)
        network.fc = network.dropout = nn.Identity()
    elif name == "vgg16":
        network = nn.Sequential(
            models.vgg16(weights=None).features, nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
    else:
        network = getattr(models, name)(weights=None)
        network.fc = nn.Identity()
    network.eval()
    shift, scale = (torch.tensor(part).reshape(1, 3, 1, 1) for part in (mean, std))

    def run(images: NDArray[np.uint8]) -> NDArray:
        with torch.no_grad():
            frames = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255
            return network((frames - shift) / scale).numpy()

    return run
