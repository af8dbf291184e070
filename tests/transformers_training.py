"""Tiny trainings with a real Hugging Face Trainer; a module of its own, as importing it takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import transformers

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES, LENGTH, WORDS = 20, 8, 32


class BrokenAt(transformers.TrainerCallback):
    """Stands in for a training loop that fails."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step == self.step:
            raise RuntimeError("the disk with the data is gone")


def sentences() -> list[dict[str, torch.Tensor]]:
    words = torch.randint(WORDS, (EXAMPLES, LENGTH), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row} for row in words]


def network() -> Any:
    """A GPT of one layer with dropout, from random weights."""
    transformers.set_seed(0)
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=16, n_positions=LENGTH, vocab_size=WORDS, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def fit(root: Path, *callbacks: Any, checkpoint: Path | None = None, **more: Any) -> Any:
    """Train the network; return the trainer."""
    settings = {
        "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "logging_steps": 1,
        "learning_rate": 0.01, "optim": "sgd", "eval_strategy": "epoch", "save_strategy": "no", "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    trainer = transformers.Trainer(
        network(),
        transformers.TrainingArguments(str(root / "out"), **{**settings, **more}),
        train_dataset=sentences(),
        eval_dataset=sentences()[:4],
        callbacks=list(callbacks),
    )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer
