"""Random interleavings of everything that producers and trainer do, against what must always hold."""

from __future__ import annotations

import numpy as np
import pytest
from containers import RUN, payload_of, producer, spec_of, trainer
from redis_server import RedisServer

from myna.feed.redis import scripts
from myna.feed.redis.errors import RunDoneError

TOTAL, PRODUCERS, STEPS = 60, 4, 500
LIMIT_BYTES = 5_000_000  # a handful of batches
PREFIX = f"myna:{{{RUN}}}:"


def size_of(number: int) -> bytes:
    return payload_of(number, 10_000, 300_000)


class World:
    """Some producers and a trainer, and what has been seen of them."""

    def __init__(self, server: RedisServer, seed: int) -> None:
        self.server, self.client = server, server.client
        self.rng = np.random.default_rng(seed)
        self.world_size = int(self.rng.integers(1, 3))
        self.spec = spec_of(TOTAL, world_size=self.world_size, seed=seed)
        self.ranks = [
            trainer(server.url, self.spec, start=rank, limit_bytes=LIMIT_BYTES, rank=rank)
            for rank in range(self.world_size)
        ]
        self.needs = list(range(self.world_size))
        self.producers = [producer(server.url, producer_id=f"p{index}") for index in range(PRODUCERS)]
        self.holds: dict[int, int] = {}  # number -> producer, leases that have not been ended
        self.in_hand: list[int | None] = [None] * PRODUCERS  # what each believes to hold

    # ---- what may happen ----

    def claim(self, index: int) -> None:
        number = self.producers[index].claim(0)
        if number is not None:
            others = {owner for held, owner in self.holds.items() if held == number} - {index}
            assert not others, f"{number} was given to p{index} while p{others} holds it"
            self.own(index, number)
            self.in_hand[index] = number

    def own(self, index: int, number: int) -> None:
        self.holds = {held: owner for held, owner in self.holds.items() if owner != index}
        self.holds[number] = index

    def reserve(self, index: int) -> None:
        """And then nothing: a reply that got lost, or a producer that stalls."""
        number = self.in_hand[index]
        if number is not None:
            self.observe(index, number, self.ask("reserve", index, number, len(size_of(number))))

    def put(self, index: int) -> None:
        number = self.in_hand[index]
        if number is None:
            return
        for _ in range(int(self.rng.integers(1, 3))):  # once, or again since the reply was lost
            answer = self.ask("reserve", index, number, len(size_of(number)))
            self.observe(index, number, answer)
            if answer[0] == "go":
                assert self.producers[index]._send(self.producers[index]._link.client, number, size_of(number))
                self.holds.pop(number, None)
        if answer[0] != "wait":
            self.in_hand[index] = int(answer[1]) if answer[0] == "yield" else None

    def late_send(self, index: int) -> None:
        """A payload of a number that is not its own, without asking for room."""
        number = int(self.rng.integers(0, TOTAL))
        if self.holds.get(number) != index:
            self.producers[index]._send(self.producers[index]._link.client, number, size_of(number))

    def renew(self, index: int) -> None:
        held = self.producers[index].renew()
        if held is None:
            assert index not in self.holds.values()
        else:  # a lease that ran out unnoticed is renewed too
            assert self.holds.get(held, index) == index
            self.own(index, held)

    def leave(self, index: int) -> None:
        self.producers[index].give_back()
        self.holds = {number: owner for number, owner in self.holds.items() if owner != index}
        self.in_hand[index] = None

    def lease_ends(self, _index: int) -> None:
        """Its producer believes to hold it still."""
        claims = self.client.zrange(f"{PREFIX}claims", 0, -1)
        if claims:
            number = int(self.rng.choice([int(claim) for claim in claims]))
            self.client.zadd(f"{PREFIX}claims", {str(number): 1})
            self.holds.pop(number, None)

    def take(self, _index: int) -> None:
        rank = int(self.rng.integers(0, self.world_size))
        number = self.needs[rank]
        if number < TOTAL:
            payload = self.ranks[rank].take(number, 0)
            assert payload in (None, size_of(number))
            if payload is not None and self.rng.random() < 0.8:
                self.needs[rank] = number + self.world_size
                self.ranks[rank].release(self.needs[rank])

    def evict(self, _index: int) -> None:
        """A server at its own limit may take any key that has an expiry."""
        keys = list(self.client.scan_iter(f"{PREFIX}b:*"))
        if keys:
            self.client.delete(keys[int(self.rng.integers(0, len(keys)))])

    def resume(self, _index: int) -> None:
        """The trainer starts again from a checkpoint a few steps back."""
        back = self.world_size * int(self.rng.integers(0, 4))
        start = max(0, min(self.needs) // self.world_size * self.world_size - back)
        for rank, container in enumerate(self.ranks):
            container.close()
            self.ranks[rank] = trainer(
                self.server.url, self.spec, start=start + rank, limit_bytes=LIMIT_BYTES, rank=rank
            )
            self.needs[rank] = start + rank

    # ---- what must hold ----

    def ask(self, name: str, index: int, *arguments: object) -> list:
        return scripts.run(self.client, name, PREFIX, self.spec.spec_id, f"p{index}", *arguments)

    def observe(self, index: int, number: int, answer: list) -> None:
        if answer[0] in ("go", "wait"):
            assert self.holds.get(number, index) == index
            self.own(index, number)
        elif answer[0] == "yield":
            self.holds.pop(number, None)
            assert self.holds.get(int(answer[1]), index) == index
            self.own(index, int(answer[1]))
        elif answer[0] in ("there", "unwanted") and self.holds.get(number) == index:
            self.holds.pop(number)

    def check(self) -> None:
        state = {key.decode(): value.decode() for key, value in self.client.hgetall(f"{PREFIX}state").items()}
        reserved = {int(key): int(value) for key, value in self.client.hgetall(f"{PREFIX}reserved").items()}
        ready = {int(number) for number in self.client.zrange(f"{PREFIX}ready", 0, -1)}
        claims = {int(number) for number in self.client.zrange(f"{PREFIX}claims", 0, -1)}
        owners = {int(key): value.decode() for key, value in self.client.hgetall(f"{PREFIX}owners").items()}
        stored = {int(key.rpartition(b":")[2]) for key in self.client.scan_iter(f"{PREFIX}b:*")}
        status = self.ranks[0].status()
        assert status is not None
        assert int(state["used"]) == sum(reserved.values())
        assert int(state["used"]) <= status.budget_bytes
        assert stored <= ready <= set(reserved) <= ready | claims
        assert not ready & claims
        assert set(owners) == claims
        assert len(set(owners.values())) == len(owners)  # one claim each
        for number in ready:
            assert number >= self.needs[number % self.world_size]
        assert "failure" not in state

    def drain(self) -> None:
        """Whatever happened, the rest comes: nothing was lost, and nobody waits for ever."""
        for turn in range(20 * TOTAL):
            if all(need >= TOTAL for need in self.needs):
                return
            for index in range(PRODUCERS):
                self.claim(index)
                self.put(index)
            rank = turn % self.world_size
            while self.needs[rank] < TOTAL and (payload := self.ranks[rank].take(self.needs[rank], 0)) is not None:
                assert payload == size_of(self.needs[rank])
                self.needs[rank] += self.world_size
                self.ranks[rank].release(self.needs[rank])
        raise AssertionError(f"stuck at {self.needs}: {self.ranks[0].status()}")

    def close(self) -> None:
        for container in [*self.ranks, *self.producers]:
            container.close()


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_or_leaks_whatever_happens(redis_server, seed):
    world = World(redis_server, seed)
    actions = {
        world.claim: 0.26,
        world.put: 0.26,
        world.take: 0.2,
        world.reserve: 0.06,
        world.late_send: 0.04,
        world.renew: 0.04,
        world.leave: 0.04,
        world.lease_ends: 0.05,
        world.evict: 0.02,
        world.resume: 0.03,
    }
    try:
        for _ in range(STEPS):
            action = world.rng.choice(list(actions), p=list(actions.values()))
            action(int(world.rng.integers(0, PRODUCERS)))
            world.check()
        world.drain()
        world.check()
        state = redis_server.client.hgetall(f"{PREFIX}state")
        assert int(state[b"used"]) == sum(int(x) for x in redis_server.client.hvals(f"{PREFIX}reserved"))
        for container in world.ranks:
            container.close(finished=True)
        with pytest.raises(RunDoneError):
            world.producers[0].claim(0)
    finally:
        world.close()
