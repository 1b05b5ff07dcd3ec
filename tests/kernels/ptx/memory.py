"""The memory that a kernel reads and writes: the operands, and what the threads of a block share.

Each access is checked as a card, or its tools, would check it: the address lies within an operand and is a multiple of
the access's size, and no other thread touches the same bytes without a barrier in between. Between blocks there is no
barrier, but a block that has added to an atomic counter, acquiring and releasing, may touch what earlier blocks wrote.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any

SEVERAL = -1
WATCHED = 2**22  # bytes: in larger memory nobody looks for races, since each byte takes twenty to watch


class CardError(Exception):
    """What stops a card, or gives other bits at each run."""


@dataclass
class Epoch:
    """The time between two barriers."""

    number: int = 1
    beginning: int = 1  # the block's first one
    has_acquired: bool = False

    def barrier(self) -> None:
        self.number += 1

    def next_block(self) -> None:
        self.number += 1
        self.beginning, self.has_acquired = self.number, False


class Watch:
    """Who touched each byte, and in which epoch; 0 is none."""

    def __init__(self, size: int) -> None:
        self.writer, self.written, self.reader, self.read, self.first_read = (np.zeros(size, np.int32) for _ in "12345")

    def _refuse(self, bad: Array, threads: Array, what: str) -> None:
        if bad.any():
            raise CardError(f"thread {threads[bad][0]} {what}, with no barrier in between")

    def reads(self, places: Array, threads: Array, epoch: Epoch) -> None:
        written = self.written[places]
        self._refuse((written == epoch.number) & (self.writer[places] != threads), threads, "reads what another wrote")
        elsewhere = (written != 0) & (written < epoch.beginning)
        self._refuse(elsewhere & (not epoch.has_acquired), threads, "reads what another block wrote")
        again = (self.read[places] == epoch.number) & (self.reader[places] != threads)
        self.reader[places] = threads
        several = again | (self.reader[places] != threads)  # of those that read one byte at once, one was kept
        self.reader[places[several]] = SEVERAL
        self.read[places] = epoch.number
        self.first_read[places] = np.where(self.first_read[places] == 0, epoch.number, self.first_read[places])

    def writes(self, places: Array, threads: Array, epoch: Epoch) -> None:
        written, first = self.written[places], self.first_read[places]
        self._refuse((written == epoch.number) & (self.writer[places] != threads), threads, "writes where another did")
        was_read = (self.read[places] == epoch.number) & (self.reader[places] != threads)
        self._refuse(was_read, threads, "writes what another has read")
        elsewhere = ((written != 0) & (written < epoch.beginning)) | ((first != 0) & (first < epoch.beginning))
        self._refuse(elsewhere & (not epoch.has_acquired), threads, "writes what another block has touched")
        self.writer[places], self.written[places] = threads, epoch.number


class Span:
    """Bytes from an address on."""

    def __init__(self, start: int, data: Array) -> None:
        self.start, self.data = start, data
        self.watch = Watch(len(data)) if len(data) <= WATCHED else None

    @classmethod
    def at(cls, start: int, size: int) -> Span:
        pointer = ctypes.cast(start, ctypes.POINTER(ctypes.c_uint8))
        return cls(start, np.ctypeslib.as_array(pointer, (size,)))


class Memory:
    """Spans, and the epoch of the block that runs."""

    def __init__(self, spans: list[Span], epoch: Epoch) -> None:
        self.spans, self.epoch = spans, epoch

    def parts(self, addresses: Array, size: int, alignment: int) -> list[tuple[Span, Array, Array]]:
        """Each span that is touched, which of the addresses touch it, and the places of their bytes."""
        if (addresses % alignment).any():
            raise CardError(f"address {addresses[addresses % alignment != 0][0]} is no multiple of {alignment}")
        missing, parts = np.ones(len(addresses), bool), []
        for span in self.spans:
            if not missing.any():
                break
            inside = missing & (addresses >= span.start) & (addresses + size <= span.start + len(span.data))
            if inside.any():
                places = (addresses[inside] - span.start).astype(np.int64)[:, None] + np.arange(size)
                parts.append((span, inside, places))
                missing &= ~inside
        if missing.any():
            raise CardError(f"{size} bytes at address {addresses[missing][0]} are outside the operands")
        return parts

    def load(self, addresses: Array, threads: Array, size: int, alignment: int) -> Array:
        """The bytes, in one row for each address."""
        found = np.empty((len(addresses), size), np.uint8)
        for span, inside, places in self.parts(addresses, size, alignment):
            if span.watch:
                span.watch.reads(places, np.broadcast_to(threads[inside][:, None], places.shape), self.epoch)
            found[inside] = span.data[places]
        return found

    def store(self, addresses: Array, threads: Array, values: Array, alignment: int) -> None:
        """Writes a row of bytes to each address."""
        for span, inside, places in self.parts(addresses, values.shape[1], alignment):
            span.data[places] = values[inside]
            if not np.array_equal(span.data[places], values[inside]):
                raise CardError("threads write different values to one place")
            if span.watch:
                places, first = np.unique(places, return_index=True)
                who = np.broadcast_to(threads[inside][:, None], values[inside].shape).ravel()[first]
                span.watch.writes(places, who, self.epoch)
