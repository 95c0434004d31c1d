"""One stage of an RLHF scaling study at a time: data, models, preference models, PPO, benchmarks, records."""

__version__ = "0.1.0"
