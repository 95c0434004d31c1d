"""PPO updates against TRL's PPOTrainer, in turn on one machine: the ratio of seconds an update.

usage: python benchmarks/race_ppo.py --model DIR --reward-model DIR --prompts prompt_ids.json --tokenizer DIR
       --peer-python VENV/bin/python [--batch 64] [--response-length 64] [--epochs 4] [--updates 3] [--rounds 3]
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model", "reward-model", "prompts", "tokenizer", "peer-python"):
        parser.add_argument(f"--{name}", required=True)
    for name, default in (("batch", 64), ("response-length", 64), ("epochs", 4), ("updates", 3), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    ratios = []
    for _ in range(given.rounds):
        mine, peer = ours(given), theirs(given)
        ratios.append(peer["sec_per_update"] / mine["sec_per_update"])
        phases = ", ".join(f"{name} {seconds:.2f}" for name, seconds in mine["phases"].items())
        print(f"ours {mine['sec_per_update']:.2f} s an update ({phases}), TRL {peer['sec_per_update']:.2f} s", end="; ")
        shares = f"{mine['share_of_product']:.0%} of a plain product's rate, gradients at"
        print(f"ratio {ratios[-1]:.2f}; ours at {shares} {mine['gradient_share_of_product']:.0%}", flush=True)
    low, high = min(ratios), max(ratios)
    print(f"median ratio {statistics.median(ratios):.2f}, range {low:.2f} to {high:.2f}, n {len(ratios)}")


def ours(given: argparse.Namespace) -> dict:
    command = [sys.executable, "-m", "hh_scaling", "bench", "ppo", "--model", given.model, "--json", "-"]
    command += ["--reward-model", given.reward_model, "--prompts", given.prompts, "--batch", str(given.batch)]
    command += ["--response-length", str(given.response_length), "--ppo-epochs", str(given.epochs)]
    return json.loads(run([*command, "--updates", str(given.updates)]))


def theirs(given: argparse.Namespace) -> dict:
    script = Path(__file__).with_name("peer_trl_ppo.py")
    numbers = map(str, (given.batch, given.updates, given.response_length, given.epochs))
    places = (given.model, given.reward_model, given.prompts, given.tokenizer)
    return json.loads(run([given.peer_python, str(script), *places, *numbers]).strip().splitlines()[-1])


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
