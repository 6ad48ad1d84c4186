"""Texts: a .txt in the book's form, a .yaml or the config that weights carry -> sections."""

import ast
import configparser
import warnings
from collections.abc import Mapping
from pathlib import Path

import yaml

from paddlevid.config.keys import SECTIONS
from paddlevid.files import TEXT_LIMIT, read_metadata, read_text


class ConfigError(ValueError):
    """A config cannot be used. The message names file, section, key, what it got and needs."""


def read_sections(path: Path) -> dict[str, dict[str, object]]:
    """The sections of a config, in small letters, and the keys of each; ConfigError."""
    suffix = path.suffix.lower()
    what = "weights" if suffix == ".safetensors" else "config"
    try:
        text = _text_of_weights(path) if suffix == ".safetensors" else read_text(path, "utf-8-sig")
    except ConfigError:
        raise
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read the {what} {path}: not a text") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read the {what} {path}: {reason}") from error
    is_yaml = suffix in (".yaml", ".yml", ".safetensors")
    return _parse_yaml(text, path) if is_yaml else _parse_book(text, path)


def _text_of_weights(path: Path) -> str:
    try:
        text = read_metadata(path).get("config")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if text is None:
        raise ConfigError(
            f"{path} carries no config: give --config FILE, or convert it with "
            "python -m paddlevid.convert"
        )
    if len(text) > TEXT_LIMIT:
        raise ConfigError(f"{path}: its config has more than {TEXT_LIMIT:,} characters")
    return text


def _parse_book(text: str, path: Path) -> dict[str, dict[str, object]]:
    # A comment behind a value is left to literal_eval, which knows a # inside quotes.
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    parser.optionxform = str
    try:
        parser.read_string(text, source=str(path))
    except configparser.DuplicateOptionError as error:
        where = f"{path}, line {error.lineno}: [{error.section}] {error.option}"
        raise ConfigError(f"{where} is set a second time") from error
    except configparser.DuplicateSectionError as error:
        where = f"{path}, line {error.lineno}: [{error.section}]"
        raise ConfigError(f"{where} begins a second time") from error
    except configparser.MissingSectionHeaderError as error:
        where = f"{path}, line {error.lineno}: {show(error.line.strip())}"
        raise ConfigError(f"{where} needs a section above it, such as [MODEL]") from error
    except configparser.ParsingError as error:
        number = error.errors[0][0]
        line = text.split("\n")[number - 1]
        where = f"{path}, line {number}: {show(line.strip())}"
        raise ConfigError(f"{where} needs the form key = value") from error
    sections: dict[str, dict[str, object]] = {}
    for name in parser.sections():
        _check_new(name, sections, path)
        section = sections[name.lower()] = {}
        for key, text_value in parser[name].items():
            try:
                section[key] = _literal(text_value)
            except ValueError as error:
                raise ConfigError(
                    f"{path}: [{name}] {key} = {_shorten(text_value)}: needs a Python literal: a "
                    'number, True, False, "text" or [a, list]'
                ) from error
    return sections


def _literal(text: str) -> object:
    """A Python literal; ValueError where it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes in Windows paths
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"{show(text)} is not a Python literal") from error


def _parse_yaml(text: str, path: Path) -> dict[str, dict[str, object]]:
    try:
        loader = _UniqueKeysLoader(text)  # a SafeLoader
        node = loader.get_single_node()
        if node is not None:
            _count_nodes(node, {})
        content = loader.construct_document(node) if node is not None else None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(
        isinstance(section, dict | None) for section in content.values()
    ):
        raise ConfigError(f"{path}: needs the sections {', '.join(SECTIONS).upper()} with keys")
    sections: dict[str, dict[str, object]] = {}
    for name, section in content.items():
        _check_new(str(name), sections, path)
        sections[str(name).lower()] = {str(key): value for key, value in (section or {}).items()}
    return sections


_LONGEST_NUMBER = 40  # characters
_MAX_NODES = 100_000  # of a YAML text, with aliases counted as what they stand for


def _count_nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Keys and values below and with a node; YAMLError where aliases make too many of them."""
    if id(node) not in known:
        known[id(node)] = _MAX_NODES  # until it is counted: it may contain itself
        inside = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            inside = [part for pair in inside for part in pair]
        known[id(node)] = 1 + sum(_count_nodes(part, known) for part in inside)
        if known[id(node)] > _MAX_NODES:
            raise yaml.YAMLError(f"it has more than {_MAX_NODES:,} keys and values by its aliases")
    return known[id(node)]


class _UniqueKeysLoader(yaml.SafeLoader):
    """Refuses a key that is set twice, where YAML's own loader takes the last."""

    def construct_number(self, node: yaml.ScalarNode) -> object:
        """A number, or the text where YAML takes 1:30 for one to the base 60, or it is huge."""
        text = self.construct_scalar(node)
        if ":" in text or len(text) > _LONGEST_NUMBER:
            return text
        is_float = node.tag.endswith("float")
        return self.construct_yaml_float(node) if is_float else self.construct_yaml_int(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        seen = set()
        for key in keys:
            if (key.tag, key.value) in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: {key.value} is set a second time")
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


for _tag in ("int", "float"):
    _UniqueKeysLoader.add_constructor(
        f"tag:yaml.org,2002:{_tag}", _UniqueKeysLoader.construct_number
    )


def _check_new(name: str, sections: Mapping[str, object], path: Path) -> None:
    if name.lower() in sections:
        raise ConfigError(f"{path}: [{name}] begins a second time")


def parse_override(override: str) -> tuple[str, str, object]:
    """SECTION.key=value -> section, key, value; ConfigError."""
    target, equals, text = override.partition("=")
    name, dot, key = target.strip().partition(".")
    if not (equals and dot and key):
        raise ConfigError(f"-o {override}: needs SECTION.key=value, as in -o TRAIN.batch_size=4")
    try:
        value = _literal(text.strip())
    except ValueError:
        value = text.strip()
    return name.lower(), key, value


def show(value: object) -> str:
    """The value as an error names it, on a line."""
    return _shorten(repr(value))


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
