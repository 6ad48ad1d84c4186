"""Flags and configs -> networks that predict, one or several whose scores are averaged."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from paddlevid import build, runtime
from paddlevid.config import Config, ConfigError
from paddlevid.data.dataset import Sample
from paddlevid.features import with_trunk
from paddlevid.predictor import Predictor, find_clips


@dataclass(frozen=True)
class Network:
    """One of several networks whose scores are averaged."""

    weights: Path
    config: Config
    predictor: Predictor
    share: float  # in the average
    clips: Path | None = None  # a list or folder instead of its config's list, or of INPUT

    @property
    def num_parameters(self) -> int:
        """Of all its layers."""
        return sum(int(np.prod(p.shape)) for p in self.predictor.network.parameters())


def open_networks(
    args: argparse.Namespace, config: Config, fused: Sequence[Config], classes: list[str]
) -> list[Network]:
    """The network of --weights, and those of --fuse, whose configs are `fused`.

    Raises ConfigError where they do not say the same classes.
    """

    def open_network(config: Config, weights: Path) -> Predictor:
        return build.build_predictor(
            config, weights, args.engine, half=args.half, tensorrt=args.tensorrt
        )

    first = Network(args.weights, config, open_network(config, args.weights), 1.0)
    if not fused:
        return [first]
    check_fusion(args, [config, *fused], classes)
    lists = args.fuse_list or [None] * len(fused)
    others = [
        Network(file, own, open_network(own, file), 1.0, clips)
        for file, own, clips in zip(args.fuse, fused, lists, strict=True)
    ]
    networks = [first, *others]
    shares = args.fuse_weights or [1.5 if n.config.model.is_flow else 1.0 for n in networks]
    networks = [replace(n, share=share) for n, share in zip(networks, shares, strict=True)]
    told = ", ".join(f"{network.share:g} x {network.weights}" for network in networks)
    print(f"scores before the softmax, averaged: {told}", file=sys.stderr)
    return networks


def check_fusion(args: argparse.Namespace, configs: list[Config], classes: list[str]) -> None:
    """Raise ConfigError where the networks do not say the same classes."""
    if runtime.is_launched():
        raise ConfigError("--fuse runs in one process: start it without paddle's launcher")
    for file, config in zip([args.weights, *args.fuse], configs, strict=True):
        if config.model.task == "predict":
            raise ConfigError(f"--fuse is for classifiers; {file} predicts frames")
        own = build.read_classes(config, file)
        if own != classes:
            a, b = next(
                ((a, b) for a, b in zip(classes, own, strict=False) if a != b), ("none", "none")
            )
            raise ConfigError(
                f"--fuse: {file} has {len(own)} classes, {args.weights} {len(classes)}; the first "
                f"that differs is {b!r} there, {a!r} here: fuse networks of one data set"
            )


def read_clips(path: Path) -> list[Sample]:
    """The clips of a list or folder; ConfigError where it has none."""
    samples, unusable = find_clips([path])
    if unusable:
        raise ConfigError(f"--fuse-list {unusable[0].problem}")
    return samples


def add_trunk(
    args: argparse.Namespace,
    config: Config,
    predictor: Predictor,
    samples: Sequence[Sample],
) -> Predictor:
    """With a trunk before it, a network for features that is to see videos; else as it is."""
    is_npy = [sample.path.suffix == ".npy" for sample in samples]
    if config.model.format != "features" or all(is_npy):
        return predictor
    if any(is_npy):
        raise ConfigError("give either videos or .npy features, not both")
    return with_trunk(config.model, predictor, args.trunk)
