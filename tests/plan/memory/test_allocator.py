from __future__ import annotations

import pytest

from myna.plan.memory.allocator import MIB, CudaAllocator, ProcessHeap, SimulatedOutOfMemoryError, replay


def test_cublas_workspace_opens_a_segment_that_others_share():
    allocator = CudaAllocator()
    assert allocator.reserved == 20 * MIB  # for 8.125 MiB
    allocator.allocate(5 * MIB)
    assert allocator.reserved == 20 * MIB


@pytest.mark.parametrize(
    ("size", "segment"),
    [(1, 2 * MIB), (MIB, 2 * MIB), (9 * MIB, 20 * MIB), (10 * MIB, 10 * MIB), (11 * MIB, 12 * MIB)],
)
def test_new_segments_have_torch_s_sizes(size: int, segment: int):
    allocator = CudaAllocator()
    allocator.allocate(10 * MIB)  # the rest of the workspace's segment, 11.875 MiB
    before = allocator.reserved
    allocator.allocate(size)
    assert allocator.reserved - before == segment


def test_small_blocks_are_of_512_bytes():
    allocator = CudaAllocator()
    blocks = [allocator.allocate(1) for _ in range(4096)]  # exactly 2 MiB
    assert {block.size for block in blocks} == {512}
    assert allocator.reserved == 22 * MIB
    allocator.allocate(1)
    assert allocator.reserved == 24 * MIB


def test_the_smallest_block_that_is_large_enough_is_taken():
    allocator = CudaAllocator()
    large, small = allocator.allocate(40 * MIB), allocator.allocate(30 * MIB)
    allocator.free(large)
    allocator.free(small)
    assert allocator.allocate(28 * MIB).address == small.address
    assert allocator.allocate(28 * MIB).address == large.address
    assert allocator.allocate(12 * MIB).size == 12 * MIB  # what 28 leave of 40
    assert allocator.reserved == 90 * MIB


def test_a_rest_of_a_mebibyte_is_not_split_off():
    allocator = CudaAllocator()
    allocator.free(allocator.allocate(40 * MIB))
    assert allocator.allocate(39 * MIB).size == 40 * MIB


def test_freed_neighbours_merge():
    allocator = CudaAllocator()
    allocator.free(allocator.allocate(60 * MIB))
    blocks = [allocator.allocate(20 * MIB) for _ in range(3)]
    for at in (0, 2, 1):
        allocator.free(blocks[at])
    assert allocator.allocate(60 * MIB).address == blocks[0].address
    assert allocator.peak_reserved == 80 * MIB


def test_cached_segments_are_released_before_giving_up():
    allocator = CudaAllocator(limit_bytes=100 * MIB)
    allocator.free(allocator.allocate(50 * MIB))
    allocator.allocate(70 * MIB)
    assert allocator.reserved == 90 * MIB
    assert allocator.peak_reserved == 90 * MIB
    with pytest.raises(SimulatedOutOfMemoryError, match=str(90 * MIB)):
        allocator.allocate(20 * MIB)


def test_a_segment_in_use_is_not_released():
    allocator = CudaAllocator(limit_bytes=100 * MIB)
    allocator.free(allocator.allocate(50 * MIB))
    allocator.allocate(12 * MIB)  # the rest of the 20 MiB segment is too small: part of the 50
    with pytest.raises(SimulatedOutOfMemoryError):
        allocator.allocate(60 * MIB)


def test_fragmentation_can_need_more_than_is_in_use():
    allocator = CudaAllocator()
    allocator.free(allocator.allocate(60 * MIB))
    first, second, third = (allocator.allocate(20 * MIB) for _ in range(3))
    allocator.free(first)
    allocator.free(third)  # 40 MiB are free, in two pieces
    allocator.allocate(40 * MIB)
    assert allocator.reserved == 120 * MIB
    assert second.size == 20 * MIB


def test_a_heap_gives_large_blocks_back_and_keeps_its_height():
    heap = ProcessHeap()
    mapped, small = heap.allocate(64 * MIB), heap.allocate(MIB)
    assert 65 * MIB <= heap.reserved < 65.01 * MIB
    heap.free(mapped)
    heap.free(small)
    assert MIB <= heap.reserved < 1.01 * MIB


def test_a_heap_grows_by_what_its_last_free_block_lacks():
    heap = ProcessHeap()
    kept = heap.allocate(4 * MIB)
    heap.free(heap.allocate(4 * MIB))
    heap.allocate(6 * MIB)
    assert 10 * MIB <= heap.reserved < 10.01 * MIB
    heap.free(kept)
    heap.allocate(2 * MIB)
    heap.allocate(MIB)
    assert heap.reserved < 10.01 * MIB


def test_an_aligned_block_does_not_fit_where_its_like_was():
    heap = ProcessHeap()
    first, _ = heap.allocate(4 * MIB), heap.allocate(4 * MIB)
    heap.free(first)
    heap.allocate(4 * MIB)
    assert heap.reserved > 12 * MIB


def test_replay_follows_births_and_deaths():
    allocator, living = CudaAllocator(), {}
    replay(allocator, [1, 2, -1, 3, -7], [0, 30 * MIB, 0, 30 * MIB], living)
    assert list(living) == [3]  # storage 2 has no bytes, 7 was never born
    assert allocator.reserved == 50 * MIB
