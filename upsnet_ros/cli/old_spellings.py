"""Command lines of the previous release, and what replaces them.

They work for one more release. To add one, add a rule to `RULES`; to retire one, remove it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Turns the arguments of a command that selected its mode by flags into a subcommand.

    Attributes:
        subcommand: What the arguments now stand for.
        flags: The rule applies if one of these options is given; without any it always applies.
        positional: The rule also applies if the first argument is not an option.
        renamed: New names of options; an empty name drops the option and keeps its value, if any.
    """

    subcommand: str
    flags: frozenset[str] = frozenset()
    positional: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)

    def applies(self, arguments: Sequence[str]) -> bool:
        """Return whether the arguments are of this rule."""
        if self.positional and arguments and not arguments[0].startswith("-"):
            return True
        given = {one.partition("=")[0] for one in arguments}
        return (not self.flags and not self.positional) or bool(self.flags & given)

    def apply(self, arguments: Sequence[str]) -> list[str]:
        """Return the new arguments."""
        new = [self.subcommand]
        for one in arguments:
            name, equals, value = one.partition("=")
            if name not in self.renamed:
                new.append(one)
            elif self.renamed[name]:
                new.append(self.renamed[name] + equals + value)
            elif equals:
                new.append(value)
        return new


#: By command: its subcommands, and the rules for command lines that name none of them.
RULES: dict[str, tuple[frozenset[str], tuple[Rule, ...]]] = {
    "evaluate": (
        frozenset({"bags", "files", "dataset"}),
        (
            Rule(subcommand="files", flags=frozenset({"--gt-json", "--pred-json"})),
            Rule(
                subcommand="bags",
                flags=frozenset({"--bag", "--gt-bag", "--outputs", "--image-topic", "--cluster"}),
                positional=True,
                renamed={"--bag": "", "--dataset": "--taxonomy"},
            ),
            Rule(subcommand="dataset", flags=frozenset({"--dataset"}), renamed={"--dataset": ""}),
        ),
    ),
    "bench": (
        frozenset({"stages", "node", "goals"}),
        (
            Rule(subcommand="node", flags=frozenset({"--node"}), renamed={"--node": ""}),
            Rule(subcommand="goals", flags=frozenset({"--compare"}), renamed={"--compare": ""}),
            Rule(subcommand="stages"),
        ),
    ),
}


#: By command: options with a new name.
RENAMED: dict[str, Mapping[str, str]] = {"play": {"--topic": "--image-topic"}}


def modernise(command: str, arguments: Sequence[str]) -> tuple[list[str], str]:
    """Return the arguments in today's spelling, and a line about the old one if it was used.

    Args:
        command: The command, such as ``evaluate``.
        arguments: What follows it.
    """
    renamed = RENAMED.get(command, {})
    old = [one for one in arguments if one.partition("=")[0] in renamed]
    if old:
        names = {one: one.partition("=")[0] for one in old}
        new = [
            renamed[names[one]] + one.removeprefix(names[one]) if one in names else one
            for one in arguments
        ]
        name = names[old[0]]
        return new, (
            f"note: {name} is deprecated and works until the next release; use {renamed[name]}"
        )
    subcommands, rules = RULES.get(command, (frozenset[str](), ()))
    first = arguments[0] if arguments else "-"
    if first in subcommands or {"--help", "--help-all"} & set(arguments):
        return list(arguments), ""
    if not first.startswith("-") and not any(rule.positional for rule in rules):
        return list(arguments), ""  # a misspelt subcommand
    for rule in rules:
        if rule.applies(arguments):
            note = (
                f"note: this spelling is deprecated and works until the next release; use"
                f" `upsnet {command} {rule.subcommand}`"
            )
            return rule.apply(arguments), note
    return list(arguments), ""
