"""Loading: sections and overrides, checked and typed -> frozen dataclasses."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path

from paddlevid.config.effects import keys_without_effect
from paddlevid.config.keys import (
    IGNORED,
    SECTIONS,
    Impossible,
    ModelConfig,
    ReaderConfig,
    TrainConfig,
    default,
)
from paddlevid.config.texts import ConfigError, parse_override, read_sections, show


@dataclass(frozen=True)
class Config:
    """A complete experiment. `notes` are lines for the user, about keys without effect."""

    model: ModelConfig
    train: TrainConfig
    valid: ReaderConfig
    test: ReaderConfig
    infer: ReaderConfig
    notes: tuple[str, ...] = field(default=(), compare=False)

    def to_dict(self) -> dict[str, dict]:
        """Sections of plain values, as they are written to a run's config.yaml."""
        return {name.upper(): _plain(dataclasses.asdict(getattr(self, name))) for name in SECTIONS}

    def recipe(self) -> dict[str, object]:
        """What runs are compared by: some keys always, and all others that are not as usual.

        A dot in a name would leave VisualDL's table empty.
        """
        found = {}
        for name in ("model", "train"):
            section = getattr(self, name)
            for key in dataclasses.fields(section):
                value, full = getattr(section, key.name), f"{name.upper()}/{key.name}"
                is_usual = value == default(type(section), key.name)
                if full in _COMPARED or not (is_usual or key.name in _ELSEWHERE):
                    found[full] = _plain(value)
        return {key: found[key] for key in _COMPARED} | found


_COMPARED = (
    "MODEL/name", "MODEL/seg_num", "TRAIN/epoch", "TRAIN/batch_size", "TRAIN/optimizer",
    "TRAIN/learning_rate", "TRAIN/l2_weight_decay", "TRAIN/seed",
)  # fmt: skip
# What says where a run is and how it is watched, not what it learns.
_ELSEWHERE = (
    "filelist", "num_reader_threads", "read_timeout", "use_gpu", "keep_checkpoints",
    "checkpoint_minutes", "picture_every", "histogram_every", "draw_network",
)  # fmt: skip


def _plain(value: object) -> object:
    """The value with lists for its tuples, which YAML does not have."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a config file, and set `SECTION.key=value` overrides.

    A .safetensors of train.py or paddlevid.convert is read too: it carries its config.

    Raises ConfigError for a file that cannot be read, an unknown section or key, or a value of a
    wrong type or size.
    """
    path = Path(path)
    sections = read_sections(path)
    places = {(name, key): str(path) for name, section in sections.items() for key in section}
    for override in overrides:
        name, key, value = parse_override(override)
        target = sections.setdefault(name, {})
        head, _, tail = key.partition(".")
        if tail:  # MODEL.arguments.dropout=0.5
            whole = target.get(head, {})
            target[head] = {**(whole if isinstance(whole, dict) else {}), tail: value}
        else:
            target[head] = value
        places[name, head] = f"-o {override}"
    return _build(sections, places, path)


def _build(sections: Mapping[str, Mapping[str, object]], places: Mapping, path: Path) -> Config:
    for name in sections:
        if name not in SECTIONS:
            known = [section.upper() for section in SECTIONS]
            raise ConfigError(f"{path}: unknown section {name.upper()}{_near(name.upper(), known)}")
    built, notes = {}, []
    for name, kind in SECTIONS.items():
        values = {}
        for key, value in sections.get(name, {}).items():
            where = f"{places[name, key]}: [{name.upper()}] {key} = {show(value)}"
            if key in IGNORED:
                notes.append(f"{name.upper()}.{key} is ignored: {IGNORED[key]}")
            else:
                values[key] = _typed(kind, key, value, where)
        try:
            built[name] = kind(**values)
        except Impossible as error:
            key, needs = error.args
            where = places.get((name, key), str(path))
            got = values.get(key, default(kind, key))
            raise ConfigError(
                f"{where}: [{name.upper()}] {key} = {show(got)}: needs {needs}"
            ) from None
        except TypeError as error:
            names = [entry.name for entry in dataclasses.fields(kind)]
            missing = [n for n in names if n not in values and default(kind, n) is MISSING]
            raise ConfigError(f"{path}: [{name.upper()}] lacks {' and '.join(missing)}") from error
    for name in SECTIONS.keys() - {"model"}:
        if name in sections:
            _check_crop(built, name, places.get((name, "target_size"), str(path)))
        else:  # its usual size may be too large for frames of MODEL.fixed_size
            room = _room(built, name)[0]
            if built[name].target_size > room:
                size = min(room, built["train"].target_size)
                built[name] = dataclasses.replace(built[name], target_size=size)
    notes += [
        f"{name.upper()}.{key} has no effect {why}"
        for name, key, why in keys_without_effect(built)
        if getattr(built[name], key) != default(SECTIONS[name], key)
        or (key == "learning_rate_decay" and key in sections.get(name, {}))
    ]
    return Config(**built, notes=tuple(notes))


def _room(built: Mapping, name: str) -> tuple[float, str]:
    """How large the square of a section may be, and what says so."""
    section, model = built[name], built["model"]
    fixed_size = model.fixed_size
    if model.format in ("features", "moving_mnist") or (model.task == "predict" and fixed_size):
        return math.inf, ""  # whole frames
    if getattr(section, "crop", "") in ("multiscale", "resized"):
        return math.inf, ""
    jitter_scale = getattr(section, "jitter_scale", ())
    room, limit = section.short_size, f"short_size = {section.short_size}"
    if jitter_scale:
        room, limit = jitter_scale[0], f"the lower jitter_scale, {jitter_scale[0]}"
    if fixed_size:
        room, limit = min(fixed_size), f"MODEL.fixed_size = {fixed_size}"
    return room, limit


def _check_crop(built: Mapping, name: str, where: str) -> None:
    """ConfigError where the square of a section does not fit into its resized frames."""
    section, (room, limit) = built[name], _room(built, name)
    if section.target_size > room:
        raise ConfigError(
            f"{where}: [{name.upper()}] target_size = {section.target_size}: needs at most {limit}"
        )


def _typed(kind: type, key: str, value: object, where: str) -> object:
    """The value as the field's type; ConfigError where it is not one."""
    hints = typing.get_type_hints(kind)
    if key not in hints:
        raise ConfigError(f"{where}: unknown key{_near(key, [*hints, *IGNORED])}")
    try:
        return _convert(hints[key], value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{where}: needs {_describe(hints[key])}") from None


def _convert(hint: object, value: object) -> object:
    if isinstance(hint, types.UnionType):  # int | None
        return None if value is None else _convert(typing.get_args(hint)[0], value)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise TypeError(value)
        return tuple(_convert(typing.get_args(hint)[0], entry) for entry in value)
    if hint is bool:
        if str(value).lower() not in ("true", "false"):
            raise TypeError(value)
        return str(value).lower() == "true"
    if hint is dict:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise TypeError(value)
        return dict(value)
    if isinstance(value, bool) or (hint is str and not isinstance(value, str)):
        raise TypeError(value)
    if hint is int and not isinstance(value, int):
        number = float(value)  # 1e3, and YAML's '1e3'
        if number != int(number):
            raise ValueError(value)
        return int(number)
    if hint is float and not math.isfinite(float(value)):
        raise ValueError(value)
    return hint(value)


def _describe(hint: object) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}
    if isinstance(hint, types.UnionType):
        return _describe(typing.get_args(hint)[0]) + ", or None"
    if typing.get_origin(hint) is tuple:
        kind = {int: "whole numbers", float: "numbers", str: "texts"}[typing.get_args(hint)[0]]
        return f"a list of {kind}"
    return names.get(hint, 'a dictionary, such as {"dropout": 0.5}')


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2)
    return f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(known)}"
