"""Clients take turns in front of a backend that is busy."""

import asyncio
import random

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins.server.turns import Turns


async def rank(turns, order, client, work):
    async with turns.turn(client):
        order.append(client)
        await work.wait()


def test_a_client_with_many_requests_waits_for_itself():
    async def served():
        turns, order, work = Turns(2), [], asyncio.Event()
        clients = ["heavy"] * 9 + ["light", "other", "light"]
        tasks = [asyncio.create_task(rank(turns, order, each, work)) for each in clients]
        await asyncio.sleep(0)
        at_once = list(order)
        work.set()
        await asyncio.gather(*tasks)
        return at_once, order

    at_once, order = asyncio.run(served())

    assert ["heavy"] * 2 == at_once
    assert ["heavy", "light", "other", "heavy", "light"] == order[2:7]
    assert 12 == len(order)


def test_who_gives_up_while_waiting_takes_no_turn():
    async def served():
        turns, order, work = Turns(1), [], asyncio.Event()
        clients = ["first", "gone", "gone", "second"]
        tasks = [asyncio.create_task(rank(turns, order, each, work)) for each in clients]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
        tasks[2].cancel()  # it leaves while its turn may just come
        work.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        return order, turns._waiting, turns._free

    assert (["first", "second"], {}, 1) == asyncio.run(served())


@pytest.mark.parametrize("seed", range(5))
def test_no_turn_is_lost_whenever_callers_leave(seed):
    chance = random.Random(seed)

    async def served():
        turns, at_work, most = Turns(3), [0], [0]

        async def ask(client):
            async with turns.turn(client):
                at_work[0] += 1
                most[0] = max(most[0], at_work[0])
                try:
                    for _ in range(chance.randrange(4)):
                        await asyncio.sleep(0)
                    if chance.random() < 0.2:
                        raise ValueError
                finally:
                    at_work[0] -= 1

        tasks = []
        for _ in range(400):
            tasks.append(asyncio.create_task(ask(chance.randrange(5))))
            if chance.random() < 0.5:
                chance.choice(tasks).cancel()
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        return most[0], turns._free, turns._waiting, sum(task.cancelled() for task in tasks)

    most, free, waiting, cancelled = asyncio.run(served())

    assert (3, 3, {}) == (most, free, waiting)
    assert 0 < cancelled < 400
