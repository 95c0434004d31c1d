"""TRL's RewardTrainer on given pairs, in the order of their file: pairs per second and the losses, as JSON.

usage: python peer_trl_reward.py MODEL PAIRS TOKENIZER BATCH STEPS MAX_LENGTH (in an environment with trl 1.16)
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer


class InFileOrder(RewardTrainer):
    """Pairs as they come, and the loss of every step."""

    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(dataset if dataset is not None else self.train_dataset)


def main(model: str, pairs: str, tokenizer: str, batch: int, steps: int, max_length: int) -> None:
    torch.set_num_threads(2)
    rows = json.loads(Path(pairs).read_text())[: batch * steps]
    data = Dataset.from_dict({"chosen": [row[0] for row in rows], "rejected": [row[1] for row in rows]})
    pm = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32)
    settings = RewardConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=batch,
        num_train_epochs=1,
        max_length=max_length,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=True,
        use_cpu=True,
        gradient_checkpointing=False,
        dataloader_drop_last=True,
        logging_steps=1,
        logging_first_step=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = InFileOrder(
        model=pm, args=settings, processing_class=AutoTokenizer.from_pretrained(tokenizer), train_dataset=data
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    n = len(losses) * batch
    print(
        json.dumps({"n_pairs": n, "n_kept": len(trainer.train_dataset), "pairs_per_s": n / seconds, "losses": losses})
    )


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:7]))
