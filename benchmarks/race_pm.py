"""Preference-model training against TRL's RewardTrainer, in turn on one machine: the ratio, and the same loss curve.

usage: python benchmarks/race_pm.py --model DIR --pairs pairs.json --tokenizer DIR --peer-python VENV/bin/python
       [--batch 16] [--steps 20] [--max-length 512] [--rounds 3]
With one round of 500 steps or more the two loss curves are compared (means over WINDOW steps).
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

WINDOW = 50  # steps


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model", "pairs", "tokenizer", "peer-python"):
        parser.add_argument(f"--{name}", required=True)
    for name, default in (("batch", 16), ("steps", 20), ("max-length", 512), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    rounds, ratios = [], []
    for _ in range(given.rounds):
        mine, peer = ours(given), theirs(given)
        rounds.append((mine, peer))
        ratios.append(mine["pairs_per_s"] / peer["pairs_per_s"])
        print(f"ours {mine['pairs_per_s']:.1f} pairs/s, {mine['share_of_product']:.0%} of a plain product's rate")
        print(f"TRL {peer['pairs_per_s']:.2f} pairs/s; pairs {mine['n_pairs']}, {peer['n_pairs']}", end="; ")
        print(f"ratio {ratios[-1]:.2f}", flush=True)
    low, high = min(ratios), max(ratios)
    print(f"median ratio {statistics.median(ratios):.2f}, range {low:.2f} to {high:.2f}, n {len(ratios)}")
    compare_losses(*(run["losses"] for run in rounds[0]))


def ours(given: argparse.Namespace) -> dict:
    command = [sys.executable, "-m", "hh_scaling", "bench", "pm", "--model", given.model, "--pairs", given.pairs]
    command += ["--tokenizer", given.tokenizer, "--batch", str(given.batch), "--max-length", str(given.max_length)]
    return json.loads(run([*command, "--steps", str(given.steps), "--json", "-"]))


def theirs(given: argparse.Namespace) -> dict:
    script = Path(__file__).with_name("peer_trl_reward.py")
    numbers = (given.batch, given.steps, given.max_length)
    command = [given.peer_python, str(script), given.model, given.pairs, given.tokenizer, *map(str, numbers)]
    return json.loads(run(command).strip().splitlines()[-1])  # its own logs come first


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def compare_losses(mine: list[float], peer: list[float]) -> None:
    n = min(len(mine), len(peer)) // WINDOW * WINDOW
    means = [[statistics.mean(losses[i : i + WINDOW]) for i in range(0, n, WINDOW)] for losses in (mine, peer)]
    for i, (a, b) in enumerate(zip(*means, strict=True)):
        print(f"steps {i * WINDOW} to {(i + 1) * WINDOW}: mean loss {a:.4f} and {b:.4f}, {a / b - 1:+.2%}")


if __name__ == "__main__":
    main()
