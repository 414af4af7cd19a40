"""The autoscaler's settings in a simulation: enough pods in time, and no flapping."""

import math
from itertools import pairwise

import pytest

from tests.integration.deploy.recipes import DEPLOY, documents

(SCALED,) = documents(DEPLOY / "kubernetes" / "components" / "keda" / "scaledobject.yaml")
SPEC = SCALED["spec"]
BEHAVIOR = SPEC["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
QUEUED, WAITING, BUSY = SPEC["triggers"]
TARGETS = [float(trigger["metadata"]["threshold"]) for trigger in SPEC["triggers"]]
POD = 400.0
"""Pairs a second that a pod scores; the recipe's threshold is made for it."""
TOLERANCE = 0.1  # of Kubernetes: a smaller difference changes nothing
STEP = 15  # seconds between two looks of the autoscaler


def desired(pods, *values):
    """Return the replicas that the triggers need, as the autoscaler computes them."""
    wanted = []
    for value, target in zip(values, TARGETS, strict=True):
        ratio = value / target
        wanted.append(pods if abs(ratio - 1) <= TOLERANCE else math.ceil(pods * ratio))
    return min(max(*wanted, SPEC["minReplicaCount"]), SPEC["maxReplicaCount"])


def simulated(load, seconds):
    """Yield (second, pods, queued pairs) of a service under `load(second)` pairs a second."""
    pods, queued, history = SPEC["minReplicaCount"], 0.0, []
    up = BEHAVIOR["scaleUp"]["policies"][0]
    down = BEHAVIOR["scaleDown"]["policies"][0]
    window = BEHAVIOR["scaleDown"]["stabilizationWindowSeconds"]
    had = {0: pods}
    for second in range(seconds):
        busy = min(1.0, (queued + load(second)) / (pods * POD))
        queued = max(0.0, queued + load(second) - pods * POD)
        if second % STEP == 0:
            wait = queued / (pods * POD)
            history.append((second, desired(pods, queued / pods, wait, busy)))
            recent = max(want for at, want in history if at > second - window)
            if history[-1][1] > pods:
                lowest = min(n for at, n in had.items() if at >= second - up["periodSeconds"])
                pods = min(history[-1][1], math.ceil(lowest * (1 + up["value"] / 100)))
            elif recent < pods:
                highest = max(n for at, n in had.items() if at > second - down["periodSeconds"])
                pods = max(recent, highest - down["value"])
            had[second] = pods
        yield second, pods, queued


def test_the_threshold_is_half_the_latency_goal_of_a_pod():
    assert pytest.approx(POD * 0.5 / 2) == TARGETS[0]
    assert QUEUED["metricType"] == "AverageValue"
    assert WAITING["metricType"] == "Value"
    assert BUSY["metricType"] == "AverageValue"


def test_at_rest_there_are_two_pods():
    assert {2} == {pods for _, pods, _ in simulated(lambda _: 0.5 * 2 * POD, 1800)}


def test_three_times_the_load_is_absorbed_within_two_minutes():
    """From 60 % of two pods to 180 % of them, all at once."""
    run = [*simulated(lambda second: 2 * POD * (0.6 if second < 300 else 1.8), 900)]

    assert max(queued for second, _, queued in run if second > 300 + 120) == 0


def test_pods_go_one_by_one_after_five_quiet_minutes():
    run = [*simulated(lambda second: 2 * POD * (2.5 if second < 300 else 0.2), 3600)]
    numbers = [pods for _, pods, _ in run]
    peak = max(numbers)
    left = next(second for second, pods, _ in run if second > 300 and pods < peak)

    assert peak > 4
    assert numbers[-1] == 2
    assert left >= 300 + BEHAVIOR["scaleDown"]["stabilizationWindowSeconds"] - STEP
    assert all(old - new <= 1 for old, new in pairwise(numbers))


def test_a_steady_load_keeps_its_pods():
    """By the queue alone they would go as soon as nothing waits."""
    run = [*simulated(lambda _: 2 * POD * 1.8, 7200)]

    assert len({pods for second, pods, _ in run if second > 300}) == 1
    assert max(queued for second, _, queued in run if second > 300) == 0


def test_a_lost_prometheus_means_the_most_pods_and_not_the_fewest():
    """The fallback replaces what all triggers say."""
    assert SPEC["fallback"]["replicas"] == SPEC["maxReplicaCount"]
    assert all(trigger["metadata"]["ignoreNullValues"] == "false" for trigger in SPEC["triggers"])
