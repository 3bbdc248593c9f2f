"""Joining the messages of frames, from one bag or two, by exact stamp and frame_id."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from upsnet_ros.bags.index import BagIndex, FrameKey, Part, parts_of
from upsnet_ros.bags.reader import Record
from upsnet_ros.bags.roles import Role
from upsnet_ros.evaluation.errors import EvaluationError
from upsnet_ros.evaluation.panoptic_files import listed

__all__ = ["Pairing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Which frames are complete, and where their messages are.

    Attributes:
        homes: The bag that each role is read from.
        keys: The complete frames, by stamp.
        notes: What was left out, a line each.
    """

    homes: Mapping[Role, BagIndex]
    keys: list[FrameKey]
    notes: list[str]

    @classmethod
    def of(
        cls,
        homes: Mapping[Role, BagIndex],
        *,
        truth: BagIndex,
        judged: BagIndex,
        main: Role,
        allow_missing: bool,
    ) -> Pairing:
        """Find the frames that have all that any frame of their bag has.

        Args:
            homes: The bag that each role is read from, of those that a bag has.
            truth: The bag with the truth, of which there is some.
            judged: The bag that is judged.
            main: The role without which there is nothing to judge.
            allow_missing: Leave out frames that lack something.

        Raises:
            EvaluationError: There is nothing to judge, no frame in common, or something is lacking.
        """
        labelled = truth.arrivals[Role.TRUTH]
        if main not in homes:
            raise EvaluationError(f"{judged.path} has no topic of {main.value} to judge")
        answered = homes[main].arrivals[main]
        if not any(key in answered for key in labelled):
            raise EvaluationError(
                f"{homes[main].path} and {truth.path} have no frame in common: "
                + _difference(list(answered), list(labelled))
            )
        notes, left_out = [], set[FrameKey]()
        for role in sorted(homes, key=lambda role: (role is not main, role.value)):
            index = homes[role]
            if role is Role.IMAGE and role is not main:
                continue  # only for the report
            absent = [key for key in sorted(labelled) if key not in index.arrivals[role]]
            if not absent:
                continue
            names = listed(truth.names.get(key.stamp_ns, str(key)) for key in absent)
            line = f"{index.path} lacks {role.value} of frames: {names}"
            if not allow_missing:
                raise EvaluationError(f"{line} (--allow-missing goes on without them)")
            notes.append(f"left out: {line}")
            left_out.update(absent)
        unjudged = sum(key not in labelled for key in answered)
        if unjudged:
            notes.append(f"{unjudged} frames of {homes[main].path} have no truth: not judged")
        keys = [key for key in sorted(labelled) if key not in left_out]
        if not keys:
            raise EvaluationError(f"no frame of {truth.path} is complete: {'; '.join(notes)}")
        return cls(homes=homes, keys=keys, notes=notes)

    def read(self, keys: Sequence[FrameKey]) -> Iterator[tuple[FrameKey, dict[Role, Record]]]:
        """The messages of some frames, frame by frame; what arrives before its turn waits.

        Raises:
            BagError: A message is damaged.
            EvaluationError: A message cannot be found again.
        """
        wanted = frozenset(keys)
        roles: dict[Path, set[Role]] = {}
        for role, index in self.homes.items():
            roles.setdefault(index.path, set()).add(role)
        streams: dict[Path, Iterator[Part]] = {
            index.path: parts_of(index, frozenset(roles[index.path]))
            for index in self.homes.values()
        }
        waiting: dict[FrameKey, dict[Role, Record]] = {}
        for key in keys:
            own = waiting.setdefault(key, {})
            for role, index in self.homes.items():
                while role not in own and key in index.arrivals[role]:
                    part = next(streams[index.path], None)
                    if part is None:
                        raise EvaluationError(f"{key}: {role.value} cannot be read again")
                    if part.key in wanted:
                        waiting.setdefault(part.key, {})[part.role] = part.record
            yield key, waiting.pop(key)


def _difference(answered: Collection[FrameKey], labelled: Collection[FrameKey]) -> str:
    """Why no key is in both."""
    stamps = {key.stamp_ns for key in answered} & {key.stamp_ns for key in labelled}
    if not stamps:
        return f"their first are {min(answered)} and {min(labelled)}"
    ids, others = ({key.frame_id for key in keys} for keys in (answered, labelled))
    return (
        f"stamps agree, but frame_id is {_quoted(ids)} in the one, {_quoted(others)} in the other"
    )


def _quoted(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
