"""Stage: the speed and memory of the contenders, measured in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rerank_plugins.bench.speed import compare_speed
from rerank_plugins.bench.workload import Mix, Shape, Workload
from rerank_plugins.errors import RerankError
from tests.benchmarks.contenders import CONTENDERS, Contender, open_peer
from tests.benchmarks.models import MODELS
from tests.benchmarks.peer import Peer

__all__ = ["Group", "Round", "measure_speed", "opened"]

_SPECIAL_TOKENS = 3


@dataclass(frozen=True, slots=True)
class Round:
    """Equal requests for all contenders, some times."""

    mix: Mix
    shape: Shape
    calls: int
    warm_up: int = 1


@dataclass(frozen=True, slots=True)
class Group:
    """The rounds of one model; its contenders are loaded once."""

    name: str
    model: str
    rounds: tuple[Round, ...]
    contenders: tuple[str, ...] = tuple(CONTENDERS)


def measure_speed(
    group: Group, models: Path, peers: Path | None, log: IO[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Return the rounds of a model, the memory of each contender, and who is missing and why."""
    model = MODELS[group.model]
    folder = model.build(models)
    asked = [CONTENDERS[name] for name in group.contenders]
    with ExitStack() as stack:
        scorers, missing = opened(asked, folder, peers, log, stack)
        after_load = {name: peer.memory for name, peer in scorers.items()}
        rounds = []
        for seed, turn in enumerate(group.rounds):
            say(f"{model.name}, {turn.mix}, {turn.shape}: {turn.calls} calls")
            rounds.append({**_measured(scorers, turn, seed), **_work(turn, seed, group.model)})
        memory = {
            name: {"loaded": after_load[name]["now"], **peer.memory}
            for name, peer in scorers.items()
        }
    return {"model": model.name, "rounds": rounds, "memory": memory, "missing": missing}


def opened(
    asked: Sequence[Contender], model: Path, peers: Path | None, log: IO[str], stack: ExitStack
) -> tuple[dict[str, Peer], dict[str, str]]:
    """Start contenders one after another; return those that score, and why the others do not."""
    scorers, missing = {}, {}
    for contender in asked:
        try:
            peer = stack.enter_context(open_peer(contender, model, peers, log))
            peer.score("what is a panda?", ["The giant panda is a bear.", "hi"])
        except (RuntimeError, RerankError) as exc:
            missing[contender.name] = str(exc).replace(str(model.parent), "…")[:200]
        else:
            scorers[contender.name] = peer
    return scorers, missing


def _measured(peers: dict[str, Peer], turn: Round, seed: int) -> dict[str, Any]:
    speeds = compare_speed(
        peers,
        turn.shape,
        Workload(turn.mix, seed=seed),
        calls=turn.calls,
        warm_up=turn.warm_up,
        processor_clocks={name: lambda p=peer: p.processor_seconds for name, peer in peers.items()},
    )
    return {
        "mix": turn.mix,
        "shape": str(turn.shape),
        "pairs": turn.shape.pairs,
        "wall": {name: [round(s, 5) for s in speed.seconds] for name, speed in speeds.items()},
        "cpu": {name: [round(s, 5) for s in speed.cpu_seconds] for name, speed in speeds.items()},
    }


def _work(turn: Round, seed: int, model: str) -> dict[str, float]:
    """Count the operations of the same requests: a generated word is one token here."""
    workload = Workload(turn.mix, seed=seed)
    drawn = [workload.requests(turn.shape) for _ in range(turn.warm_up + turn.calls)]
    lengths = [
        min(512, len(query.split()) + len(text.split()) + _SPECIAL_TOKENS)
        for requests in drawn[turn.warm_up :]
        for query, texts in requests
        for text in texts
    ]
    flops = [MODELS[model].flops(length) for length in lengths]
    return {
        "tokens_per_pair": round(sum(lengths) / len(lengths), 1),
        "gflop_per_pair": round(sum(flops) / len(flops) / 1e9, 3),
    }
