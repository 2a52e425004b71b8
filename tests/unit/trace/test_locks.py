"""A process that forks while threads explain: the child explains too, with the same network."""

import os
import threading
import time

import pytest
import torch
from torch import nn

import camscope as cs
from camscope.trace import locks
from camscope.trace.locks import lock_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def finished(child, *, within=60.0):
    """Return the exit status of a child; it is ended after some seconds."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


def forked(work):
    """Return the exit status of ``work`` in a child."""
    child = os.fork()
    if child:
        return finished(child)
    status = 9
    try:
        status = work()
    finally:
        os._exit(status)


def test_forks_while_two_threads_explain():
    count = torch.get_num_threads()
    torch.set_num_threads(1)  # a child has no pool of threads
    nets = [
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).train()
    ]
    nets.append(nn.Sequential(nn.BatchNorm2d(3), nets[0]))  # shares the first
    inputs = torch.rand(2, 3, 24, 24)
    expected = [cs.cam(net, inputs) for net in nets]
    ended = threading.Event()

    def explain(net):
        while not ended.is_set():
            cs.cam(net, inputs)

    def same():
        trained = all(module.training for net in nets for module in net.modules())
        hooks = any(module._forward_hooks for net in nets for module in net.modules())
        maps = [cs.cam(net, inputs) for net in nets]
        return 0 if trained and not hooks and all(map(torch.allclose, maps, expected)) else 1

    threads = [threading.Thread(target=explain, args=(net,)) for net in nets]
    for thread in threads:
        thread.start()
    try:
        assert [forked(same) for _ in range(20)] == [0] * 20
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        torch.set_num_threads(count)


def test_a_lock_that_is_held_too_long_is_new_in_the_child(monkeypatch):
    monkeypatch.setattr(locks, "_WAIT", 0.1)
    net, ended, held = nn.ReLU(), threading.Event(), threading.Event()

    def hold():
        with lock_of(net):
            held.set()
            ended.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert forked(lambda: 0 if lock_of(net).acquire(timeout=5) else 1) == 0
        assert not lock_of(net).acquire(timeout=0.01)  # still held in the parent
    finally:
        ended.set()
        thread.join()


def test_a_fork_inside_an_explanation_does_not_wait_for_itself():
    net = nn.ReLU()
    with lock_of(net):
        start = time.monotonic()
        assert forked(lambda: 0 if lock_of(net).acquire(timeout=5) else 1) == 0
        assert time.monotonic() - start < locks._WAIT
