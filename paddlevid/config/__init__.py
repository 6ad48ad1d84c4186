"""Configuration: a .txt (the book's form) or .yaml file and overrides -> frozen dataclasses."""

from paddlevid.config.keys import SECTIONS, ModelConfig, ReaderConfig, TrainConfig
from paddlevid.config.load import Config, load_config
from paddlevid.config.texts import ConfigError

__all__ = [
    "SECTIONS", "Config", "ConfigError", "ModelConfig", "ReaderConfig", "TrainConfig",
    "load_config",
]  # fmt: skip
