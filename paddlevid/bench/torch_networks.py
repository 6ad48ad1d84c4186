"""The same networks in PyTorch, written as its users write them, to be measured beside ours."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from paddlevid.runtime import usable_cores


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


def create(name: str, num_classes: int, arguments: dict) -> nn.Module:
    """A network with fresh weights; ValueError where there is none of this name."""
    networks = {"cnn_lstm": CNNLSTM}
    if name not in networks:
        raise ValueError(
            f"no {name} to compare with in PyTorch: there are {', '.join(networks)}, and for "
            "extract the trunks"
        )
    return networks[name](num_classes, **arguments)


def train_step(model: nn.Module, clips: NDArray, labels: NDArray) -> Callable[[], None]:
    """A function that makes a step with Momentum on a batch."""
    torch.set_num_threads(usable_cores())
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9, weight_decay=1e-4)
    model.train()

    def step() -> None:
        logits = model(torch.from_numpy(clips))
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels))
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
