"""TensorBoard's event files, read in one pass: scalars, and the pictures of a few steps.

TensorBoard's own reader checks every byte's checksum in Python, which takes minutes where a run has logged ten
thousand pictures. A file that ends within a record, as a killed run leaves it, is read up to there.
"""

import struct
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.util.tensor_util import make_ndarray

Points = dict[str, list[tuple[int, float]]]


def event_files(folder: Path) -> list[Path]:
    """A folder's event files, the oldest first."""
    return sorted(folder.glob("events.out.tfevents.*"))


def scan(files: Sequence[Path], tag: str) -> tuple[Points, list[int]]:
    """Step and value of every scalar, by name, in the order of writing; and the steps of a tag's pictures, in order."""
    found: Points = defaultdict(list)
    pictured = set()
    for event in _events(files):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found[value.tag].append((event.step, value.simple_value))
            elif _is(value, tag):
                pictured.add(event.step)
            elif value.HasField("tensor") and value.metadata.plugin_data.plugin_name == "scalars":
                found[value.tag].append((event.step, float(make_ndarray(value.tensor))))
    return dict(found), sorted(pictured)


def pictures(files: Sequence[Path], tag: str, steps: Collection[int]) -> dict[int, bytes]:
    """The pictures of some steps, encoded as they were logged (PNG); the last one where a step has several."""
    return {
        event.step: value.image.encoded_image_string
        for event in _events(files)
        if event.step in steps
        for value in event.summary.value
        if _is(value, tag)
    }


def _is(value: Any, tag: str) -> bool:
    return value.tag == tag and value.HasField("image")


def _events(files: Sequence[Path]) -> Iterator[Event]:
    """Records are length (8 bytes, little-endian), its checksum (4), the event, its checksum (4)."""
    for path in files:
        left = path.stat().st_size
        with path.open("rb") as file:
            while left >= 16:
                (length,) = struct.unpack("<Q", file.read(12)[:8])
                left -= length + 16
                if left < 0:  # cut off, or no length at all
                    break
                data = file.read(length + 4)[:-4]
                try:
                    yield Event.FromString(data)
                except DecodeError:  # what follows cannot be trusted either
                    break
