"""What an allocator would hold for a ledger: torch's CUDA caching allocator, and the heap of a process.

Memory in use is not what runs out: blocks are rounded, freed ones are kept, and what lies between two blocks in use
serves only smaller requests. Over batches of changing length that costs 1 to 40 % on top.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

KIB = 1 << 10
MIB = 1 << 20
# c10/core/AllocatorConfig.h and c10/cuda/CUDACachingAllocator.cpp of torch 2.x, default settings
MIN_BLOCK_BYTES = 512  # kMinBlockSize: sizes are rounded up to multiples of it
SMALL_BYTES = MIB  # kSmallSize: requests up to this come from the small pool
SMALL_SEGMENT_BYTES = 2 * MIB  # kSmallBuffer
MIN_LARGE_BYTES = 10 * MIB  # kMinLargeAlloc: smaller ones share a segment of
LARGE_SEGMENT_BYTES = 20 * MIB  # kLargeBuffer
ROUND_LARGE_BYTES = 2 * MIB  # kRoundLarge: the others have segments in multiples of it
# getChosenWorkspaceSize of aten/src/ATen/cuda/CublasHandlePool.cpp: ":4096:2:16:8" KiB, taken once and kept
CUBLAS_WORKSPACE_BYTES = (4096 * 2 + 16 * 8) * KIB  # 8.125 MiB
# glibc malloc/malloc.c
MMAP_THRESHOLD_BYTES = 8 * MIB  # as `return_freed_memory` of myna.machine sets it
PAGE_BYTES = 4 * KIB
CHUNK_ALIGNMENT_BYTES, CHUNK_HEADER_BYTES = 16, 16
# posix_memalign for the 64 bytes of c10/core/alignment.h looks for that much more and gives the rest back, so that a
# block just freed is too small for its like.
ALIGNMENT_SLACK_BYTES = 64 + 32


class SimulatedOutOfMemoryError(Exception):
    """The allocator would have raised an out-of-memory error here."""


class Block:
    """A stretch of memory, in use or free, between its neighbours in the same segment."""

    __slots__ = ("address", "after", "before", "free", "pool", "size")

    def __init__(self, address: int, size: int, pool: int) -> None:
        self.address = address
        self.size = size
        self.pool = pool
        self.free = False
        self.before: Block | None = None
        self.after: Block | None = None

    @property
    def whole_segment(self) -> bool:
        """Nothing else lies in its segment."""
        return self.before is None and self.after is None


class Allocator(ABC):
    """Best fit with splitting and merging. Subclasses say where new memory comes from.

    Attributes:
        reserved: bytes taken from the device or the system and not given back.
        peak_reserved: the most of them so far.
    """

    def __init__(self) -> None:
        self.reserved = 0
        self.peak_reserved = 0
        self._pools: tuple[list[tuple[int, int, Block]], ...] = ([], [])  # free blocks by (size, address)

    @abstractmethod
    def allocate(self, size_bytes: int) -> Block:
        """Memory for one storage.

        Raises:
            SimulatedOutOfMemoryError: the limit does not allow it.
        """

    def free(self, block: Block) -> None:
        """Give a block back; it merges with free neighbours."""
        before, after = block.before, block.after
        if before is not None and before.free:
            self._take_out(before)
            block.address = before.address
            block.size += before.size
            block.before = before.before
            if block.before is not None:
                block.before.after = block
        if after is not None and after.free:
            self._take_out(after)
            block.size += after.size
            block.after = after.after
            if block.after is not None:
                block.after.before = block
        self._put_in(block)

    def _best_fit(self, size: int, pool: int) -> Block | None:
        """The smallest free block that is large enough, at the lowest address."""
        blocks = self._pools[pool]
        index = bisect_left(blocks, (size,))
        return blocks.pop(index)[2] if index < len(blocks) else None

    def _split(self, block: Block, size: int) -> None:
        """Keep the first `size` bytes of a block; the rest is free."""
        rest = Block(block.address + size, block.size - size, block.pool)
        rest.before, rest.after = block, block.after
        if rest.after is not None:
            rest.after.before = rest
        block.after, block.size = rest, size
        self._put_in(rest)

    def _put_in(self, block: Block) -> None:
        block.free = True
        insort(self._pools[block.pool], (block.size, block.address, block))

    def _take_out(self, block: Block) -> None:
        blocks = self._pools[block.pool]
        del blocks[bisect_left(blocks, (block.size, block.address))]

    def _reserve(self, size: int) -> None:
        self.reserved += size
        self.peak_reserved = max(self.peak_reserved, self.reserved)


class CudaAllocator(Allocator):
    """torch's CUDA caching allocator with default settings, the cuBLAS workspace already taken.

    Args:
        limit_bytes: what it may reserve; None for a card without end.
    """

    LARGE, SMALL = 0, 1  # pools

    def __init__(self, limit_bytes: int | None = None) -> None:
        super().__init__()
        self.limit_bytes = limit_bytes
        self._next_address = 0
        self.allocate(CUBLAS_WORKSPACE_BYTES)

    def allocate(self, size_bytes: int) -> Block:
        """See `Allocator.allocate`."""
        size = max(-(-size_bytes // MIN_BLOCK_BYTES), 1) * MIN_BLOCK_BYTES
        pool = self.SMALL if size <= SMALL_BYTES else self.LARGE
        block = self._best_fit(size, pool) or self._new_segment(size, pool)
        block.free = False
        # A rest of the large pool that is too small to serve it stays with the block.
        rest = block.size - size
        if rest >= (MIN_BLOCK_BYTES if pool == self.SMALL else SMALL_BYTES + 1):
            self._split(block, size)
        return block

    def _new_segment(self, size: int, pool: int) -> Block:
        if pool == self.SMALL:
            segment = SMALL_SEGMENT_BYTES
        elif size < MIN_LARGE_BYTES:
            segment = LARGE_SEGMENT_BYTES
        else:
            segment = -(-size // ROUND_LARGE_BYTES) * ROUND_LARGE_BYTES
        if self._exceeds(segment):
            self._release_cached()
            if self._exceeds(segment):
                raise SimulatedOutOfMemoryError(
                    f"{segment} bytes wanted with {self.reserved} of {self.limit_bytes} reserved"
                )
        self._reserve(segment)
        block = Block(self._next_address, segment, pool)
        self._next_address += segment
        return block

    def _exceeds(self, segment: int) -> bool:
        return self.limit_bytes is not None and self.reserved + segment > self.limit_bytes

    def _release_cached(self) -> None:
        """Give segments in which nothing is in use back to the device, as torch does before it gives up."""
        for blocks in self._pools:
            self.reserved -= sum(size for size, _, block in blocks if block.whole_segment)
            blocks[:] = [entry for entry in blocks if not entry[2].whole_segment]


class ProcessHeap(Allocator):
    """The heap of a process under glibc: mappings of their own for large blocks, one growing stretch for the others.

    The stretch never shrinks here, and malloc's bins are taken for an exact best fit.
    """

    HEAP, MAPPED = 0, 1  # pools; nothing is ever free in the second

    def __init__(self) -> None:
        super().__init__()
        self._top: Block | None = None  # the last block of the stretch

    def allocate(self, size_bytes: int) -> Block:
        """See `Allocator.allocate`."""
        if size_bytes >= MMAP_THRESHOLD_BYTES:
            size = -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
            self._reserve(size)
            return Block(-1, size, self.MAPPED)
        size = -(-(size_bytes + CHUNK_HEADER_BYTES) // CHUNK_ALIGNMENT_BYTES) * CHUNK_ALIGNMENT_BYTES
        wanted = size + ALIGNMENT_SLACK_BYTES
        block = self._best_fit(wanted, self.HEAP) or self._grow(wanted)
        block.free = False
        self._split(block, size)
        return block

    def free(self, block: Block) -> None:
        """See `Allocator.free`."""
        if block.pool == self.MAPPED:
            self.reserved -= block.size
            return
        super().free(block)
        if block.after is None:
            self._top = block

    def _split(self, block: Block, size: int) -> None:
        super()._split(block, size)
        if block is self._top:
            self._top = block.after

    def _grow(self, size: int) -> Block:
        """A block at the end of the stretch, of which the last free one is part."""
        top = self._top
        if top is not None and top.free:
            self._reserve(size - top.size)
            self._take_out(top)
            top.size = size
            return top
        self._reserve(size)
        block = Block(0 if top is None else top.address + top.size, size, self.HEAP)
        block.before = top
        if top is not None:
            top.after = block
        self._top = block
        return block


def replay(allocator: Allocator, order: Iterable[int], sizes: Sequence[int], living: dict[int, Block]) -> None:
    """Let an allocator live through a ledger.

    Args:
        order: +i storage i is born, -i it dies; a death of a storage that does not live is passed over.
        sizes: bytes of storage i.
        living: blocks by storage, brought up to date.

    Raises:
        SimulatedOutOfMemoryError: the allocator's limit was reached.
    """
    allocate, free = allocator.allocate, allocator.free
    for event in order:
        if event > 0:
            if sizes[event]:
                living[event] = allocate(sizes[event])
        else:
            block = living.pop(-event, None)
            if block is not None:
                free(block)
