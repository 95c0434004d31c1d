"""Gradients from several processes: the sum that one process gives, and an end in every case."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hh_scaling.configs import Compute
from hh_scaling.crew import Crew, LostMember, balanced, crew_size


def small_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    model[0].bias.requires_grad_(False)
    return model


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def squares(model: nn.Module, data: torch.Tensor) -> object:
    def task(rows: list[int]) -> float:
        loss = model(data[rows]).square().sum()
        loss.backward()
        return loss.item()

    return task


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_gradient_is_that_of_one_process(n: int) -> None:
    """Also after the weights changed: members see the leader's weights. A frozen parameter has no gradient."""
    data = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    one, many = small_model(), small_model()
    with Crew(n, many.parameters(), squares=squares(many, data)) as crew:
        assert crew.n == n
        for _ in range(3):
            expected = squares(one, data)(list(range(20)))  # type: ignore[operator]
            parts = balanced([1.0] * 20, n)
            assert sum(crew.gradient("squares", parts)) == pytest.approx(expected, rel=1e-5)
            for ours, theirs in zip(gradients(many), gradients(one), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
            for model in (one, many):
                with torch.no_grad():
                    for p in model.parameters():
                        if p.grad is not None:
                            p -= 0.01 * p.grad
                            p.grad = None


def test_fewer_parts_than_members_leave_nothing_of_earlier_gradients() -> None:
    data, model = torch.ones(4, 5), small_model()
    with Crew(3, model.parameters(), squares=squares(model, data)) as crew:
        crew.gradient("squares", [[0], [1], [2]])
        model.zero_grad()
        crew.gradient("squares", [[3]])
        alone = small_model()
        squares(alone, data)([3])  # type: ignore[operator]
        torch.testing.assert_close(gradients(model), gradients(alone))


def test_an_error_of_a_member_is_raised_by_the_leader() -> None:
    def picky(part: int) -> int:
        if part == 2:
            raise FloatingPointError("loss is not finite in step 7")
        return part

    with Crew(2, [], picky=picky) as crew:
        with pytest.raises(FloatingPointError, match="step 7"):
            crew.do("picky", [1, 2])
        assert crew.do("picky", [3, 4]) == [3, 4]


def test_an_error_of_the_leader_leaves_no_answer_for_a_later_task() -> None:
    def picky(part: int) -> int:
        if part == 1:
            raise FloatingPointError("not here")
        return part

    with Crew(2, [], picky=picky) as crew:
        with pytest.raises(FloatingPointError, match="not here"):
            crew.do("picky", [1, 2])
        assert crew.do("picky", [3, 4]) == [3, 4]


def test_only_a_wanted_gradient_is_left() -> None:
    data, model = torch.ones(4, 5), small_model()
    with Crew(2, model.parameters(), squares=squares(model, data), nothing=lambda part: None) as crew:
        crew.gradient("squares", [[0], [1]])
        before = [g.clone() for g in crew.gradients[0]]
        crew.do("nothing", [0, 0])
        assert any(g.abs().max() > 0 for g in before)
        for kept, now in zip(before, crew.gradients[0], strict=True):
            assert torch.equal(kept, now)


def test_a_lost_member_is_named() -> None:
    with Crew(2, [], wait=lambda seconds: time.sleep(seconds)) as crew:
        os.kill(crew.members[0], signal.SIGKILL)
        with pytest.raises(LostMember, match="has ended"):
            crew.do("wait", [0, 0])


def test_an_answer_that_cannot_be_sent_is_an_error_that_says_so() -> None:
    crew = Crew(2, [], answer=lambda part: (lambda: part) if part else None)
    with crew, pytest.raises(RuntimeError, match="function"):
        crew.do("answer", [0, 1])


ORPHAN = """
import os, signal, sys, time
from hh_scaling.crew import Crew
def slow(part):
    if part == 0:
        os.kill(os.getpid(), signal.SIGKILL)  # the leader, while its member computes
    time.sleep(1)
    return part
try:
    with Crew(2, [], slow=slow) as crew:
        print(crew.members[0], flush=True)
        crew.do("slow", [0, 1])
finally:
    open(sys.argv[1], "w").write("somebody went on with the leader's work")
"""


def test_a_member_whose_leader_dies_does_not_go_on_with_the_leaders_work(tmp_path: Path) -> None:
    mark = tmp_path / "escaped"
    leader = subprocess.Popen([sys.executable, "-c", ORPHAN, str(mark)], stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None
    member = int(leader.stdout.readline())
    leader.wait()
    deadline = time.monotonic() + 60
    while alive(member) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(member) and not mark.exists()


def test_it_ends_its_processes_and_gives_the_threads_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Crew(2, [], nothing=lambda part: torch.get_num_threads()) as crew:
            members = list(crew.members)
            assert crew.do("nothing", [0, 0]) == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    for pid in members:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


LEADER = """
import time
from hh_scaling.crew import Crew
crew = Crew(3, [], nothing=lambda part: part)
print(*crew.members, flush=True)
time.sleep(600)
"""


def test_members_end_when_the_leader_is_killed() -> None:
    leader = subprocess.Popen([sys.executable, "-c", LEADER], stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None
    members = [int(pid) for pid in leader.stdout.readline().split()]
    leader.kill()
    leader.wait()
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in members) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(members) == 2 and not any(alive(pid) for pid in members)


def alive(pid: int) -> bool:
    """Whether there is such a process that is not merely waiting to be buried."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_balanced_parts_have_every_index_once_and_nearly_equal_sums() -> None:
    """The dearest-first rule is never worse than 4/3 - 1/(3 n) times the best division (Graham 1969)."""
    costs = np.random.default_rng(0).uniform(1, 5, 30).tolist()
    for n in (1, 2, 4):
        parts = balanced(costs, n)
        assert sorted(i for part in parts for i in part) == list(range(30))
        assert max(sum(costs[i] for i in part) for part in parts) <= (4 / 3 - 1 / (3 * n)) * sum(costs) / n + max(costs)
    assert balanced([2.0], 3) == [[0]] and balanced([], 2) == []


def test_one_process_on_an_accelerator() -> None:
    assert crew_size(Compute(threads=2)) == (2 if sys.platform == "linux" else 1)
    assert crew_size(Compute(threads=8, device="cuda")) == 1
