"""A batch's gradient from several processes of one thread each, which share the weights.

What a small model spends its time on is thousands of short operations, each with a cost of its own that threads inside
an operation do nothing about. Forked processes that each take a part of the batch share that cost too; on two cores,
two processes of one thread train a model of 6 M parameters about a quarter faster than one process of two threads.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn

from hh_scaling.configs import Compute

Task = Callable[[Any], Any]
FLOAT_BYTES = 4


class LostMember(RuntimeError):
    """A process of the crew ended by itself, as when memory runs out."""


def crew_size(compute: Compute) -> int:
    """How many processes a stage's gradients are computed by: one a thread on processors where processes fork."""
    forks = sys.platform == "linux" and torch.device(compute.device).type == "cpu"
    return compute.threads if forks else 1


class Crew:
    """This process and ``n - 1`` forked ones; each does named tasks on a part of its own.

    The members know what was there when the crew was made, and see the ``parameters`` as they are now; of other changes
    only what a part carries, which holds arrays and no tensors (pipes would send those as open files). Every process
    computes with one thread as long as the crew is there. Use it in a ``with`` statement, or close it.
    """

    def __init__(self, n: int, parameters: Iterable[nn.Parameter], **tasks: Task) -> None:
        self.tasks, self.n_threads = tasks, torch.get_num_threads()
        self.trained = [p for p in parameters if p.requires_grad]
        self.pipes: list[Connection] = []
        self.members: list[int] = []
        if n > 1:
            share(self.trained)
        self.gradients = [shared_like(self.trained) for _ in range(n - 1)]
        if n > 1:
            torch.set_num_threads(1)
        for gradient in self.gradients:
            self.start(gradient)

    @property
    def n(self) -> int:
        return 1 + len(self.members)

    def start(self, gradient: list[Tensor]) -> None:
        """Fork a member that leaves its gradients in ``gradient``."""
        ours, theirs = multiprocessing.Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            for pipe in (ours, *self.pipes):  # so that every member's pipe ends with the process that leads
                pipe.close()
            serve(theirs, self.tasks, self.trained, gradient)
        theirs.close()
        self.pipes.append(ours)
        self.members.append(pid)

    def do(self, task: str, parts: Sequence[Any], gradient: bool = False) -> list[Any]:
        """The task's result for each of at most ``n`` parts, the first done here; raises what it or a member raised.

        With ``gradient`` members leave theirs in ``gradients``.
        """
        others = self.pipes[: len(parts) - 1]
        try:
            for pipe, part in zip(others, parts[1:], strict=True):
                pipe.send((task, part, gradient))
            try:
                results = [self.tasks[task](part) for part in parts[:1]]
            finally:  # also when the own part fails: no answer may be taken for a later task's
                answers = [pipe.recv() for pipe in others]
        except (EOFError, ConnectionError) as error:
            raise LostMember("a process that computes a part of a batch has ended (out of memory?)") from error
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return results + answers

    def gradient(self, task: str, parts: Sequence[Any]) -> list[Any]:
        """``do``, and then the parameters' gradients are the sum over the processes, always in the same order."""
        results = self.do(task, parts, gradient=True)
        with self.resting():
            for theirs in self.gradients[: len(parts) - 1]:
                for p, grad in zip(self.trained, theirs, strict=True):
                    p.grad = grad.clone() if p.grad is None else p.grad.add_(grad)
        return results

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Within it the others rest, and this process computes with the threads it had before there was a crew."""
        torch.set_num_threads(self.n_threads)
        try:
            yield
        finally:
            torch.set_num_threads(1 if self.members else self.n_threads)

    def close(self) -> None:
        """End the other processes."""
        for pipe in self.pipes:
            pipe.close()
        for pid in self.members:
            os.kill(pid, signal.SIGKILL)  # they hold nothing that could be lost
            os.waitpid(pid, 0)
        self.pipes, self.members, self.gradients = [], [], []
        torch.set_num_threads(self.n_threads)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(pipe: Connection, tasks: dict[str, Task], trained: Sequence[nn.Parameter], gradient: list[Tensor]) -> None:
    """A member's life: take a part, do the task, leave a wanted gradient where the leader reads it, answer, go on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the leader's to handle
    try:
        while True:
            task, part, wanted = pipe.recv()
            try:
                answer = tasks[task](part)
                if wanted:
                    leave(trained, gradient)
            except BaseException as error:
                answer = error
            send(pipe, answer)
    finally:  # whatever happens, also when the leader is gone: a fork must never go on with the leader's own work
        os._exit(0)


def leave(trained: Sequence[nn.Parameter], gradient: Sequence[Tensor]) -> None:
    """Move the parameters' gradients to ``gradient``."""
    for p, into in zip(trained, gradient, strict=True):
        into.zero_() if p.grad is None else into.copy_(p.grad)
        p.grad = None


def send(pipe: Connection, answer: Any) -> None:
    """The answer, or as an error what it is where it cannot be sent."""
    try:
        pipe.send(answer)
    except (OSError, EOFError):
        raise
    except Exception as error:
        pipe.send(RuntimeError(f"{type(answer).__name__} {answer}: {error}"))


def share(parameters: Sequence[nn.Parameter]) -> None:
    """Move the parameters to memory that forked processes have in common."""
    for p, room in zip(parameters, shared_like(parameters), strict=True):
        room.copy_(p.data)
        p.data = room


def shared_like(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Zeros of the parameters' shapes in anonymous shared memory, which no limit of /dev/shm concerns."""
    if not parameters:
        return []
    flat = torch.frombuffer(mmap.mmap(-1, FLOAT_BYTES * sum(p.numel() for p in parameters)), dtype=torch.float32)
    return [part.view(p.shape) for part, p in zip(flat.split([p.numel() for p in parameters]), parameters, strict=True)]


def balanced(costs: Sequence[float], n: int) -> list[list[int]]:
    """The indices in at most ``n`` parts of nearly equal cost, none empty: dearest first, each to the cheapest part."""
    parts: list[list[int]] = [[] for _ in range(n)]
    sums = [0.0] * n
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        least = min(range(n), key=lambda part: sums[part])
        parts[least].append(i)
        sums[least] += costs[i]
    return [part for part in parts if part]
