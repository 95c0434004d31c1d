"""TRL's PPOTrainer on given prompts: seconds an update, as JSON.

usage: python peer_trl_ppo.py MODEL REWARD_MODEL PROMPTS TOKENIZER BATCH UPDATES RESPONSE_LENGTH EPOCHS (trl 1.12)
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer

ROWS_AT_ONCE = 16


def main(
    model: str, reward_model: str, prompts: str, tokenizer: str, batch: int, updates: int, length: int, epochs: int
) -> None:
    torch.set_num_threads(2)
    data = Dataset.from_dict({"input_ids": json.loads(Path(prompts).read_text())})
    policy, reference = (AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32) for _ in range(2))
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(reward_model, num_labels=1, dtype=torch.float32)
        for _ in range(2)
    )
    rows = min(batch, ROWS_AT_ONCE)
    settings = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=batch // rows,
        num_mini_batches=1,
        total_episodes=batch * updates,
        num_ppo_epochs=epochs,
        response_length=length,
        local_rollout_forward_batch_size=batch,
        num_sample_generations=0,
        temperature=1.0,
        kl_coef=0.01,
        stop_token=None,
        bf16=True,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=10**6,
    )
    trainer = PPOTrainer(
        args=settings,
        processing_class=AutoTokenizer.from_pretrained(tokenizer, padding_side="left"),
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=data,
        eval_dataset=data.select(range(batch)),
    )
    started = time.perf_counter()
    trainer.train()
    print(json.dumps({"sec_per_update": (time.perf_counter() - started) / updates}))


if __name__ == "__main__":
    main(*sys.argv[1:5], *map(int, sys.argv[5:]))
