"""Everything this package raises on purpose, and how messages show text that others wrote.

Each error's message is one line for the user: what happened, to which file, topic or value, and
what to do. The `upsnet` command prints that line and exits with code 1; anything else that
reaches it is a fault of the program and shows its traceback.

Errors derive from `ValueError` or `RuntimeError` too, whichever suits, for callers that know no
other.
"""

from __future__ import annotations

import numbers
import reprlib
from collections.abc import Iterable

__all__ = [
    "BagError",
    "CaptureError",
    "CheckpointError",
    "ClusterError",
    "DatasetError",
    "DivergedError",
    "DownloadError",
    "EvaluationError",
    "ImageError",
    "LoadError",
    "NonFiniteLossError",
    "OutputError",
    "PipelineClosedError",
    "PlayerError",
    "PointsError",
    "ProcessError",
    "RecorderError",
    "RecordingError",
    "ReplayError",
    "ResultError",
    "SettingsError",
    "SourceError",
    "TooLargeError",
    "TopicError",
    "UpsnetError",
    "VideoError",
    "check_number",
    "did_you_mean",
    "first_line",
    "listed",
    "printable",
]


class UpsnetError(Exception):
    """Base of all errors of this package.

    Attributes:
        details: Lines to print below the message, such as the end of a log; usually empty.
    """

    details: str = ""


# Values and files that the user gives.


class SettingsError(UpsnetError, ValueError):
    """An option, parameter or setting has a value that cannot be used."""


def check_number(name: str, value: object, *, whole: bool = False) -> None:
    """Raise `SettingsError` unless a value is a number, of Python or NumPy; bool is not one."""
    kind = numbers.Integral if whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        wanted = "a whole number" if whole else "a number"
        raise SettingsError(f"{name} must be {wanted}, not {reprlib.repr(value)}")


class BagError(UpsnetError, ValueError):
    """A bag cannot be read or written."""


class TooLargeError(UpsnetError, ValueError):
    """What is to be decompressed is larger than allowed."""


class TopicError(UpsnetError, ValueError):
    """A bag does not tell which topic is meant; the message lists its topics."""


class SourceError(UpsnetError, ValueError):
    """A video, folder of images or camera cannot be opened or read."""


class ImageError(UpsnetError, ValueError):
    """An image, frame or camera message cannot be used or read."""


class PointsError(UpsnetError, ValueError):
    """A depth image, point cloud, calibration or transform cannot be used.

    Attributes:
        topic: Name of the input that it came from; empty where that is not known.
    """

    topic: str = ""


class DatasetError(UpsnetError, ValueError):
    """A data set cannot be read; the message names the file."""


class CheckpointError(UpsnetError, ValueError):
    """Weights cannot be used; the message names the file."""


class DivergedError(CheckpointError):
    """Weights, or what the network computes with them, are NaN or infinite."""


class DownloadError(UpsnetError, RuntimeError):
    """A file cannot be downloaded; the message names the host and what to do instead."""


class EvaluationError(UpsnetError, ValueError):
    """Ground truth and prediction cannot be compared; the message names the frame or file."""


class ClusterError(EvaluationError):
    """Workers cannot be started, or cannot work."""


class ResultError(UpsnetError, ValueError):
    """Bytes are not an evaluation result; the message says where."""


# What is written.


class OutputError(UpsnetError, RuntimeError):
    """Something is in the way of the output, or it cannot be written; the message names it."""


#: What recordings raise; the name from before there was one error for all output.
RecordingError = OutputError


class VideoError(OutputError):
    """A video cannot be written; the message names its file."""


# What runs.


class ProcessError(UpsnetError, RuntimeError):
    """A process that was started ended early or failed; `details` has its last words."""


class PlayerError(UpsnetError, RuntimeError):
    """Nobody listens to the player, or a frame was not answered in time."""


class RecorderError(UpsnetError, RuntimeError):
    """Frames did not come as asked; the message says what was missing."""


class ReplayError(UpsnetError, RuntimeError):
    """Nobody listens to the replay, or an image was not answered in time."""


class LoadError(UpsnetError, RuntimeError):
    """The node that is measured does not answer; the message says what is missing."""


class NonFiniteLossError(UpsnetError, RuntimeError):
    """A loss is infinite or not a number; the message names the losses and the images."""


class CaptureError(UpsnetError, RuntimeError):
    """A function ran, but could not be captured in a graph."""


class PipelineClosedError(UpsnetError, RuntimeError):
    """A pipeline that was closed was given a frame."""

    def __init__(self) -> None:
        super().__init__("the pipeline is closed")


# Text in messages.


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def listed(items: Iterable[object], *, most: int = 5, separator: str = ", ") -> str:
    """Return the first few items, by default with commas, and how many more there are."""
    texts = [str(item) for item in items]
    more = f"{separator.strip(', ')} and {len(texts) - most} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def parse_failure(path: object, error: Exception) -> str:
    """Return the line and the reason why a YAML or TOML file cannot be parsed, after its name.

    Args:
        path: The file.
        error: What the parser or the decoder raised.
    """
    if isinstance(error, UnicodeError):
        return f"{path} is not a text file"
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is not None and problem:  # yaml.MarkedYAMLError
        return f"{path}, line {mark.line + 1}: {problem}"
    return f"{path} cannot be read: {first_line(error)}"


def did_you_mean(name: object, names: Iterable[str]) -> str:
    """Return a question with the most similar of the names, to append; empty if none is similar."""
    from difflib import get_close_matches  # rarely needed

    near = get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def printable(text: str) -> str:
    """Return the text on one line: white space as single spaces, without control characters."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())
