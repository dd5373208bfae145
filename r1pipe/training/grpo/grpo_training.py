"""Group relative policy optimisation, from the recipe's fields to a checkpoint (v2 2.1, 3.2).

`train_grpo` reads from top to bottom: check, audit the rewards, order the prompts, train, save. What happens in a
rollout begins in grpo_trainer.py; docs/grpo.md walks through it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig

from r1pipe.errors import ConfigError, InputError
from r1pipe.here import Here
from r1pipe.models.loading import load_model, load_tokenizer, save_trained, settle_ends, warn_of_positions
from r1pipe.rewards.checks import audit_before_training
from r1pipe.rewards.coverage import refuse_idle_rewards
from r1pipe.rewards.scoring import Scorer
from r1pipe.schema import AuditParams, GRPOParams
from r1pipe.text.rendering import (
    check_system_turns,
    file_template,
    prefill_in,
    prompt_ids,
    render_prompt,
)
from r1pipe.training.arguments import lora_config, resume_from
from r1pipe.training.callbacks import Heldout, MetricsCallback
from r1pipe.training.checkpoints import link_or_copy
from r1pipe.training.grpo.arguments import compiled_layers, grpo_arguments, may_roll_back, token_microbatches
from r1pipe.training.grpo.grpo_trainer import R1GRPOTrainer
from r1pipe.training.grpo.guard_actions import (
    GuardCallback,
    LearningRate,
    finish_rollback,
    past_rollbacks,
    roll_back,
)
from r1pipe.training.grpo.prompt_order import order_prompts, spare_prompts
from r1pipe.training.grpo.vllm_rollouts import require_vllm

Row = dict[str, Any]


def train_grpo(
    *,
    checkpoint: Path,
    prompts: dict[str, list[Row]],
    heldout: list[Row],
    params: GRPOParams,
    template: str,
    out: Path,
    here: Here,
    seed: int,
    models: dict[str, Scorer] | None = None,
    audit: AuditParams | None = None,
) -> dict[str, float]:
    """Train the policy through all phases and write a checkpoint.

    Args:
        checkpoint: the policy, and the reference, at the start.
        prompts: input port -> rows; the phases name the ports.
        heldout: rows scored before training, every `eval_every` updates and at the end.
        template: `chat` or a template file; nothing of the response is prefilled.
        out: the folder of the new checkpoint.
        models: scorers for helpful and harmless.
        audit: what the rewards must show on these prompts before the first update; None = nothing.

    Returns:
        steps, kept_step, reward (mean of the last tenth), the held-out accuracy and tokens at the start and of the
        policy that was kept, and, where a guard found something, guard_findings and rollbacks.

    Raises:
        ConfigError, InputError, MissingToolError: this cannot be trained here; see _check.
        GateError: the audit of the rewards failed a gate; nothing was trained.
        GuardError: a guard whose action is `pause` found something, or rolling back did not help.
    """
    _check(params, prompts, here)
    if audit is not None and audit.before_training and here.main:
        _audit_rewards(params, prompts, audit, here)

    # All prompts are ordered before the first is answered: a run that is resumed goes on in the same order.
    tokenizer = load_tokenizer(checkpoint)
    prompt_template = file_template(template, tokenizer)
    if prompt_template is None:
        asked: Iterator[Any] = (render_prompt(row, None) for rows in prompts.values() for row in rows)
        check_system_turns(asked, tokenizer)
    rows = order_prompts(params, prompts, seed)
    heldout = heldout[: params.eval_prompts]
    watch = Heldout(heldout, prompt_ids(heldout, prompt_template, tokenizer) if heldout else [], here, params)

    # With `resample` any row may be answered.
    answered = [row for source in prompts.values() for row in source] if params.resample else rows
    different = {row["prompt"]: row for row in answered}
    answered_ids = prompt_ids(list(different.values()), prompt_template, tokenizer)
    widest_prompt = max(map(len, [*answered_ids, *watch.prompt_ids]))
    warn_of_positions(checkpoint, answered_ids, max(phase.max_tokens for phase in params.phases))

    finish_rollback(here)
    # One round, and one more after each rollback.
    while True:
        trainer, guard = make_trainer(
            checkpoint=checkpoint,
            rows=rows,
            prompts=prompts,
            params=params,
            template=prompt_template,
            tokenizer=tokenizer,
            watch=watch,
            widest_prompt=widest_prompt,
            here=here,
            seed=seed,
            models=models,
        )
        trainer.train(resume_from_checkpoint=resume_from(here))
        if guard.rollback is None:
            break
        # the twin's cache must not stand beside the next trainer's
        trainer.sampler.graphed = None
        # the next trainer goes on from what this leaves, and so does `watch`
        roll_back(guard.rollback, params.guards, here)

    if watch.best_folder is None:
        save_trained(trainer, tokenizer, out, here)
    elif here.main:
        # A second name of the same files: an attempt that follows must find them in the workdir until the stage is
        # published.
        shutil.copytree(
            watch.best_folder,
            out,
            copy_function=link_or_copy,
            dirs_exist_ok=True,
        )
    return _metrics(params, trainer, watch, guard, here)


def _check(
    params: GRPOParams,
    prompts: dict[str, list[Row]],
    here: Here,
) -> None:
    """Refuse, before anything is loaded, what would fail hours later.

    Raises:
        ConfigError: a phase names an unknown port, a rollback is impossible, or groups would be cut.
        InputError: a port that a phase names has no rows, or a reward applies to none of them.
        MissingToolError: the rollout needs vLLM or a GPU.
    """
    # the ports that phases name exist and have rows
    named = {name for phase in params.phases for name in phase.prompts}
    with_rows = [name for name, rows in prompts.items() if rows]
    missing = sorted(named.difference(with_rows))
    if missing:
        # an unknown port is the config's mistake, an empty one the input's
        error = InputError if missing[0] in prompts else ConfigError
        raise error(
            f"a phase asks for prompts from {', '.join(missing)}, which has no rows",
            "grpo.phases.prompts",
            f"use inputs with rows: {', '.join(with_rows) or 'there are none'}",
        )
    refuse_idle_rewards(params.phases, prompts, isolation=lambda: here.isolation)
    # a rollback builds a second trainer in the same process
    if may_roll_back(params) and here.world_size > 1:
        raise ConfigError(
            f"a guard can roll back in one process only, and this stage has {here.world_size}",
            "grpo.guards",
            "set action: pause and start again by hand; or launch: {num_processes: 1}",
        )
    if may_roll_back(params) and params.rollout == "vllm":
        raise ConfigError(
            "a rollback builds a new trainer, and vLLM in this process does not give its memory back",
            "grpo.guards",
            "set action: pause; or rollout: vllm-server",
        )
    require_vllm(params)
    # a rank judges its groups alone when it replaces them
    responses_per_rank = params.batch_size * params.minibatches_per_rollout // here.world_size
    if params.resample and responses_per_rank % params.num_generations:
        raise ConfigError(
            f"resample needs whole groups on each rank, and {responses_per_rank} responses a rank are not "
            f"a multiple of num_generations {params.num_generations}",
            "grpo.resample",
            "set another batch_size or number of ranks; or resample: 0",
        )


def _audit_rewards(
    params: GRPOParams,
    prompts: dict[str, list[Row]],
    audit: AuditParams,
    here: Here,
) -> None:
    """Try the rewards on gold and on worthless answers to the phases' prompts; the console shows the result.

    Raises:
        GateError: they are not fit to train on.
    """
    ports = dict.fromkeys(name for phase in params.phases for name in phase.prompts)
    rows = [row for port in ports for row in prompts[port]]
    if not here.isolation:
        # programs cannot be run here, and rows of code are left out of the training as well
        rows = [row for row in rows if not row.get("tests")]
    here.note(audit_before_training(here.stage, params.phases, rows, audit).line())


def make_trainer(
    *,
    checkpoint: Path,
    rows: list[Row],
    prompts: dict[str, list[Row]],
    params: GRPOParams,
    template: str | None,
    tokenizer: Any,
    watch: Heldout,
    widest_prompt: int = 0,
    here: Here,
    seed: int,
    models: dict[str, Scorer] | None = None,
) -> tuple[R1GRPOTrainer, GuardCallback]:
    """A trainer before its first update, with the learning rate that the rollbacks so far have left.

    Args:
        rows: the prompts of all rollouts, in order.
        prompts: input port -> rows, for groups that are replaced.
        template: the text that prompts are rendered with; None = the tokenizer's chat template.
        watch: scores held-out prompts along the way; gets this trainer.
        widest_prompt: tokens of the longest prompt that will be answered.
    """
    # Before the model is loaded: under ZeRO-3 these arguments make it load in shards.
    args = GRPOConfig(**grpo_arguments(params, here, seed))
    guard = GuardCallback(params.guards, here)

    def spare(rollout: int) -> Iterator[tuple[Any, Row]]:
        return ((render_prompt(row, template), row) for row in spare_prompts(params, prompts, seed, rollout))

    model = load_model(checkpoint, training=True)
    settle_ends(model, tokenizer)
    texts = [render_prompt(row, template) for row in rows]
    trainer = R1GRPOTrainer(
        params=params,
        rows=list(rows),
        here=here,
        widest_prompt=widest_prompt,
        prefill=prefill_in(template, tokenizer),
        models=models,
        microbatch_tokens=token_microbatches(params),
        compiled=compiled_layers(params, here, model),
        spare=spare,
        args=args,
        model=model,
        train_dataset=Dataset.from_dict({"prompt": texts, "row": list(range(len(rows)))}),
        processing_class=tokenizer,
        peft_config=lora_config(params.lora, "grpo.lora"),
        # the log is written before a guard may stop the training
        callbacks=[MetricsCallback(here), guard],
    )
    # those of an earlier attempt count, too: a restart must not raise the rate again
    rollbacks = len(past_rollbacks(here))
    if rollbacks:
        trainer.add_callback(LearningRate(params.lr * params.guards.rollback_lr**rollbacks))
    watch.trainer = trainer
    trainer.add_callback(watch)
    trainer.remove_callback(PrinterCallback)  # metrics.jsonl has it all
    return trainer, guard


def _metrics(
    params: GRPOParams,
    trainer: R1GRPOTrainer,
    watch: Heldout,
    guard: GuardCallback,
    here: Here,
) -> dict[str, float]:
    """The stage's metrics, as train_grpo returns them."""
    rewards = [entry["reward"] for entry in trainer.state.log_history if entry.get("reward") is not None]
    tail = rewards[-max(1, len(rewards) // 10) :]
    metrics: dict[str, float] = {
        "steps": params.steps,
        # of the last tenth, since a single rollout says little
        "reward": round(sum(tail) / max(1, len(tail)), 4),
        **watch.summary(),
    }
    rollbacks = len(past_rollbacks(here))
    if guard.findings or rollbacks:
        # the finding that led to a rollback was counted by a guard that is gone
        metrics |= {"guard_findings": guard.findings + rollbacks, "rollbacks": rollbacks}
    return metrics
