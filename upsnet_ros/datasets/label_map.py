"""Label maps: YAML files that rename and merge classes of a network into another taxonomy.

    from: coco              # classes of the weights: cityscapes or coco
    to: cityscapes          # a known taxonomy, or a name of your own
    unmapped: void          # classes that are not listed: void, or keep
    classes:
      road: [road]
      sidewalk: [pavement-merged]
      ground:               # of a taxonomy of your own, all keys but `from` are optional
        from: [road, pavement-merged]
        kind: stuff         # default: thing if all of its classes are things
        id: 149             # default: the id of the first class
        color: [128, 64, 128]  # RGB; default: the colour of the first class

Things may become stuff. Stuff cannot become a thing, because it has no instances.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from upsnet_ros.datasets.taxonomy import ClassInfo, Taxonomy, get_taxonomy, known_taxonomies
from upsnet_ros.errors import SettingsError, did_you_mean
from upsnet_ros.shipped_files import shipped_path

_KEYS = ("from", "to", "unmapped", "classes")
_CLASS_KEYS = ("from", "kind", "id", "color")
_UNMAPPED = ("void", "keep")
_KINDS = ("stuff", "thing")
#: Public ids are published as uint8, where 255 means unlabelled and 0 void.
_LARGEST_ID = 254
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMap:
    """Into which class of another taxonomy each class of a network is turned.

    Attributes:
        name: The file's name, for messages.
        source: Classes of the network.
        taxonomy: Classes of the result.
        targets: For each ``semantic_id`` of `source` that of its class in `taxonomy`; None: its
            pixels become void.
    """

    name: str
    source: Taxonomy
    taxonomy: Taxonomy
    targets: tuple[int | None, ...]

    def check_source(self, taxonomy: Taxonomy) -> None:
        """Raise SettingsError if the network has other classes than the map is written for."""
        if taxonomy.name != self.source.name:
            raise SettingsError(
                f"label_map {self.name} maps the classes of {self.source.name}, but the weights"
                f" have those of {taxonomy.name}"
            )


def label_map_path(label_map: str | Path) -> Path:
    """Return the file of a label map: a path, or the bare name of one that is shipped.

    Raises:
        SettingsError: There is no such file; the message lists the shipped ones.
    """
    path = Path(label_map).expanduser()
    if path.is_file():
        return path
    folder = shipped_path("config/labels")
    shipped = sorted(folder.glob("*.yaml")) if folder else []
    text = str(label_map)
    for file in shipped:
        if text in (file.stem, file.name):
            return file
    if path.is_dir():
        raise SettingsError(f"label_map {label_map} is a folder: name a YAML file")
    names = [file.stem for file in shipped]
    raise SettingsError(
        f"label_map {label_map}: no such file{did_you_mean(Path(text).stem, names)};"
        f" shipped label maps: {', '.join(names) or 'none'}"
    )


def read_label_map(label_map: str | Path) -> LabelMap:
    """Return the label map of a file, or of the bare name of one that is shipped.

    Raises:
        SettingsError: The file is missing, is not a label map, or names a class that does not
            exist; the message names the file and the class.
    """
    path = label_map_path(label_map)
    try:
        return _Reader(path.name, _parse(path)).label_map()
    except OSError as error:
        raise SettingsError(f"cannot read label_map {path}: {error.strerror}") from None
    except _MistakeError as error:
        raise SettingsError(f"label_map {path}: {error}") from None


class _MistakeError(ValueError):
    """What is wrong in the file; its name is put in front."""


def _parse(path: Path) -> Any:
    """Return the content of a YAML file."""
    import yaml  # which a predictor without a label map does without

    class Loader(yaml.SafeLoader):
        """Refuses a key that stands twice, of which YAML would silently take the last."""

        def construct_mapping(
            self, node: yaml.MappingNode, deep: bool = False
        ) -> dict[Hashable, Any]:
            # What `<<` merges is not listed here, and may be replaced by what is.
            own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
            keys = [self.construct_object(key, deep=True) for key in own]
            for index, key in enumerate(keys):
                if key in keys[:index]:
                    raise _MistakeError(f"{key!r} is listed twice in one mapping")
            return super().construct_mapping(node, deep=deep)

    try:
        return yaml.load(path.read_text("utf-8"), Loader=Loader)
    except _MistakeError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # of a date that there is not
        text = " ".join(str(error).split()).replace('in "<unicode string>", line', "at line")
        raise SettingsError(f"label_map {path} is not a YAML file: {text}") from None


class _Reader:
    """Checks the content of one file."""

    def __init__(self, name: str, content: Any) -> None:
        self._name = name
        if not isinstance(content, dict):
            raise _MistakeError("the file must have the keys from, to and classes")
        _check_keys(content, _KEYS, "the file")
        for key in ("from", "to"):
            if not _is_name(content.get(key)):
                raise _MistakeError(f"{key} must name a taxonomy")
        self._source = _known(content["from"])
        self._to: str = content["to"]
        self._keep = _choice(content.get("unmapped", "void"), _UNMAPPED, "unmapped") == "keep"
        classes = content.get("classes")
        if not isinstance(classes, dict) or not classes:
            raise _MistakeError("classes must map each class to the list of classes it is made of")
        self._classes: dict[Any, Any] = classes
        self._by_name = {info.name: info for info in self._source.classes}

    def label_map(self) -> LabelMap:
        known = self._to in known_taxonomies()
        base = get_taxonomy(self._to) if known else None
        members: dict[str, list[ClassInfo]] = {}
        infos: dict[str, ClassInfo] = (
            {} if base is None else {info.name: info for info in base.classes}
        )
        taken: dict[str, str] = {}
        for target, entry in self._classes.items():
            if not isinstance(target, str):
                raise _MistakeError(f"class {target!r} must be a text: put it in quotes")
            if not _is_name(target):
                raise _MistakeError(f"{target[:100]!r} is not the name of a class")
            fields = entry if isinstance(entry, dict) else {"from": entry}
            _check_keys(fields, _CLASS_KEYS, f"class {target!r}")
            members[target] = self._sources(target, fields.get("from"), taken)
            infos[target] = (
                _known_class(target, fields, base)
                if base is not None
                else _own_class(target, fields, members[target])
            )
            stuff = [one.name for one in members[target] if not one.is_thing]
            if infos[target].is_thing and stuff:
                raise _MistakeError(
                    f"{stuff[0]!r} is stuff and cannot become {target!r}, a thing: it has no"
                    " instances"
                )
        name = self._to
        if self._keep:
            kept = [one for one in self._source.classes if one.name not in taken]
            self._add_kept(infos, members, kept)
            if base is not None and base is not self._source and kept:
                name = f"{self._to}+{self._source.name}"
        return self._assembled(name, infos, members)

    def _sources(self, target: str, names: Any, taken: dict[str, str]) -> list[ClassInfo]:
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not names:
            raise _MistakeError(f"class {target!r} must list classes of {self._source.name}")
        for name in names:
            if not isinstance(name, str) or name not in self._by_name:
                near = did_you_mean(name, self._by_name)
                raise _MistakeError(f"{self._source.name} has no class {name!r}{near}")
            if name in taken:
                raise _MistakeError(
                    f"{name!r} is mapped twice, to {taken[name]!r} and to {target!r}"
                )
            taken[name] = target
        return [self._by_name[name] for name in names]

    def _add_kept(
        self,
        infos: dict[str, ClassInfo],
        members: dict[str, list[ClassInfo]],
        kept: Iterable[ClassInfo],
    ) -> None:
        """Add classes that are not listed, under a free id where theirs is taken."""
        ids = {info.id for info in infos.values()}
        largest = max(ids | {one.id for one in self._source.classes})
        for one in kept:
            if infos.get(one.name) == one:  # the taxonomies are the same
                members.setdefault(one.name, []).append(one)
                continue
            if one.name in infos:
                raise _MistakeError(
                    f"{one.name!r} of {self._source.name} is not listed and would be kept, but"
                    f" {self._to} has a class of that name: list it, or set unmapped to void"
                )
            number = one.id
            if number in ids:
                number = largest = largest + 1
            ids.add(number)
            infos[one.name] = replace(one, id=number)
            members[one.name] = [one]

    def _assembled(
        self, name: str, infos: Mapping[str, ClassInfo], members: Mapping[str, list[ClassInfo]]
    ) -> LabelMap:
        by_id: dict[int, str] = {}
        for info in infos.values():
            if info.id in by_id:
                raise _MistakeError(
                    f"{by_id[info.id]!r} and {info.name!r} both have id {info.id}: give one"
                    " another id"
                )
            if not 1 <= info.id <= _LARGEST_ID:
                raise _MistakeError(f"{info.name!r} has id {info.id}, not 1 to {_LARGEST_ID}")
            by_id[info.id] = info.name
        # Stuff first, otherwise in the order in which they are listed.
        ordered = sorted(infos.values(), key=lambda info: info.is_thing)
        classes = [replace(info, semantic_id=index) for index, info in enumerate(ordered)]
        targets: list[int | None] = [None] * self._source.num_classes
        for info in classes:
            for one in members.get(info.name, ()):
                targets[one.semantic_id] = info.semantic_id
        taxonomy = Taxonomy(name, tuple(classes))
        if self._to in known_taxonomies() and taxonomy == get_taxonomy(self._to):
            taxonomy = get_taxonomy(self._to)
        return LabelMap(
            name=self._name, source=self._source, taxonomy=taxonomy, targets=tuple(targets)
        )


def _is_name(text: Any) -> bool:
    """Return whether it can be shown in a table, and published."""
    printable = isinstance(text, str) and text.isprintable() and bool(text.strip())
    return printable and len(text) <= _LONGEST_NAME


def _known(name: str) -> Taxonomy:
    if name not in known_taxonomies():
        raise _MistakeError(
            f"from: unknown taxonomy {name!r}{did_you_mean(name, known_taxonomies())};"
            f" choose one of {', '.join(known_taxonomies())}"
        )
    return get_taxonomy(name)


def _known_class(target: str, fields: Mapping[str, Any], base: Taxonomy) -> ClassInfo:
    """Return a class of a known taxonomy, whose id, kind and colour are fixed."""
    info = next((one for one in base.classes if one.name == target), None)
    if info is None:
        near = did_you_mean(target, [one.name for one in base.classes])
        raise _MistakeError(f"{base.name} has no class {target!r}{near}")
    kind = _KINDS[info.is_thing]
    wanted = {"kind": kind, "id": info.id, "color": list(info.color)}
    for key, value in wanted.items():
        if key in fields and fields[key] != value:
            raise _MistakeError(
                f"{target!r} has {key} {value} in {base.name}, not {fields[key]!r}: leave it out,"
                " or name a taxonomy of your own under to"
            )
    return info


def _own_class(target: str, fields: Mapping[str, Any], sources: list[ClassInfo]) -> ClassInfo:
    things = all(one.is_thing for one in sources)
    kind = _choice(fields.get("kind", _KINDS[things]), _KINDS, f"kind of {target!r}")
    number = fields.get("id", sources[0].id)
    if type(number) is not int:
        raise _MistakeError(f"id of {target!r} must be an integer, not {number!r}")
    color = fields.get("color", list(sources[0].color))
    if (
        not isinstance(color, list)
        or len(color) != 3
        or not all(type(part) is int and 0 <= part <= 255 for part in color)
    ):
        raise _MistakeError(f"color of {target!r} must be [R, G, B], 0 to 255 each, not {color!r}")
    return ClassInfo(
        id=number,
        name=target,
        is_thing=kind == "thing",
        color=(color[0], color[1], color[2]),
        semantic_id=0,
    )


def _check_keys(mapping: Mapping[Any, Any], known: Iterable[str], where: str) -> None:
    for key in mapping:
        if key not in known:
            raise _MistakeError(
                f"{where} has an unknown key {key!r}{did_you_mean(key, known)};"
                f" known: {', '.join(known)}"
            )


def _choice(value: Any, choices: tuple[str, ...], what: str) -> str:
    if value not in choices:
        raise _MistakeError(f"{what} must be {' or '.join(choices)}, not {value!r}")
    return str(value)
