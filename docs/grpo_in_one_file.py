"""GRPO in one file, without TRL: the base model that ships learns to think on sums (arXiv 2501.12948v2, section 2.1).

    python docs/grpo_in_one_file.py --updates 40

One rollout makes one update here, so the policy that is trained is the one that drew, and the clip never binds. r1pipe
makes several updates from a rollout, samples faster and wastes no work on padding. A test checks that the first update
of both is the same (tests/docs/test_grpo_in_one_file.py).

Shapes: B responses (G groups of N, one group after the other), T tokens of the longest prompt with its response,
V vocabulary.
"""

from __future__ import annotations

import argparse
import copy
import random
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1pipe.embedded.world import problems
from r1pipe.rewards import REWARDS

BASE = "r1pipe/embedded/data/base"
TEMPLATE = (
    "User: {prompt}\nAssistant: "  # the base has seen this form in its documents; it does not name the tags
)
GROUPS = 8  # prompts of a rollout
GROUP_SIZE = 8  # responses to each
MAX_TOKENS = 64
LR = 5e-5
BETA = 0.001  # of the KL term, v2 2.1
CLIP = 10.0  # v2 2.1


@dataclass
class Batch:
    """Responses with their prompts, padded on the right.

    Attributes:
        ids_BT: token ids.
        is_response_BT: True on the tokens of responses, the end token included; False on prompts and padding.
    """

    ids_BT: torch.Tensor
    is_response_BT: torch.Tensor


def make_batch(prompts: list[list[int]], responses: list[list[int]], pad: int) -> Batch:
    rows = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    width = max(map(len, rows))
    ids_BT = torch.tensor([row + [pad] * (width - len(row)) for row in rows])

    is_response_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    for b, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        is_response_BT[b, len(prompt) : len(row)] = True
    return Batch(ids_BT, is_response_BT)


@torch.no_grad()
def sample(model, prompt: list[int], count: int, max_tokens: int, end: int) -> list[list[int]]:
    """`count` responses to one prompt at temperature 1. All is read again for each token: slow, and easy to read."""
    ids_NT = torch.tensor([prompt] * count)
    ended_N = torch.zeros(count, dtype=torch.bool)
    while ids_NT.shape[1] < len(prompt) + max_tokens and not ended_N.all():
        logits_NV = model(input_ids=ids_NT).logits[:, -1]
        next_N = torch.multinomial(logits_NV.softmax(-1), 1).squeeze(1)
        next_N[ended_N] = end
        ids_NT = torch.cat([ids_NT, next_N[:, None]], 1)
        ended_N |= next_N == end

    responses = [row[len(prompt) :] for row in ids_NT.tolist()]
    return [row[: row.index(end) + 1] if end in row else row for row in responses]


def advantages(rewards_B: torch.Tensor, group_size: int) -> torch.Tensor:
    """How much better than its group each response is, in standard deviations (v2 eq. 3): no critic is needed."""
    rewards_GN = rewards_B.view(-1, group_size)
    mean_G1 = rewards_GN.mean(1, keepdim=True)
    std_G1 = rewards_GN.std(1, keepdim=True)
    # A group whose rewards are all equal has advantages of 0 and teaches nothing; the small number keeps 0 / 0 away.
    return ((rewards_GN - mean_G1) / (std_G1 + 1e-4)).flatten()


def log_probs(model, batch: Batch) -> torch.Tensor:
    """The log-prob of each token given those before it, (B, T - 1)."""
    is_prompt_BT = batch.is_response_BT.int().cumsum(1) == 0
    real_BT = batch.is_response_BT | is_prompt_BT
    logits_BTV = model(input_ids=batch.ids_BT, attention_mask=real_BT.long()).logits[:, :-1]
    return logits_BTV.log_softmax(-1).gather(2, batch.ids_BT[:, 1:, None]).squeeze(2)


def grpo_loss(policy, batch: Batch, advantage_B, old_logps_BT, ref_logps_BT) -> torch.Tensor:
    """v2 eq. 1 and 2; the mean over a response's tokens first, then over responses (DeepSeekMath eq. 3)."""
    logps_BT = log_probs(policy, batch)
    mask_BT = batch.is_response_BT[:, 1:].float()

    ratio_BT = (logps_BT - old_logps_BT).exp()
    clipped_BT = ratio_BT.clamp(1 - CLIP, 1 + CLIP)
    advantage_B1 = advantage_B[:, None]
    gain_BT = torch.minimum(ratio_BT * advantage_B1, clipped_BT * advantage_B1)

    # k3: an estimate of the KL divergence that is never negative (v2 eq. 2)
    gap_BT = ref_logps_BT - logps_BT
    kl_BT = gap_BT.exp() - gap_BT - 1

    loss_BT = -(gain_BT - BETA * kl_BT)
    return ((loss_BT * mask_BT).sum(1) / mask_BT.sum(1)).mean()


def update(policy, optimizer, batch: Batch, advantage_B: torch.Tensor, ref_logps_BT: torch.Tensor) -> float:
    """One optimizer step; returns the norm of the gradient."""
    with torch.no_grad():
        old_logps_BT = log_probs(policy, batch)
    grpo_loss(policy, batch, advantage_B, old_logps_BT, ref_logps_BT).backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(norm)


def main(updates: int, seed: int = 0) -> list[float]:
    """Train; returns the share of right answers in each rollout."""
    torch.manual_seed(seed)
    policy = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    reference = copy.deepcopy(policy)  # where the policy came from; the KL term holds it near
    optimizer = torch.optim.AdamW(policy.parameters(), lr=LR, betas=(0.9, 0.99), weight_decay=0.0)
    rows = problems("train", ["math"], count=500, seed=seed)
    draw = random.Random(seed)

    right = []
    for step in range(updates):
        prompts, responses, answers = [], [], []
        for row in draw.sample(rows, GROUPS):
            prompt = tokenizer.encode(TEMPLATE.format(prompt=row["prompt"]))
            responses += sample(policy, prompt, GROUP_SIZE, MAX_TOKENS, tokenizer.eos_token_id)
            prompts += [prompt] * GROUP_SIZE
            answers += [row["answer"]] * GROUP_SIZE
        texts = tokenizer.batch_decode(responses, skip_special_tokens=True)

        accuracy = REWARDS["accuracy"](texts, answer=answers)
        form = REWARDS["format"](texts, form="zero")
        rewards_B = torch.tensor([float(a or 0) + float(f or 0) for a, f in zip(accuracy, form, strict=True)])

        batch = make_batch(prompts, responses, tokenizer.pad_token_id)
        with torch.no_grad():
            ref_logps_BT = log_probs(reference, batch)
        update(policy, optimizer, batch, advantages(rewards_B, GROUP_SIZE), ref_logps_BT)

        right.append(sum(float(a or 0) for a in accuracy) / len(texts))
        length = sum(map(len, responses)) / len(responses)
        print(
            f"{step + 1}: right {right[-1]:.2f}  reward {rewards_B.mean():.2f}  tokens {length:.0f}",
            flush=True,
        )
    return right


def test_equal_rewards_teach_nothing() -> None:
    assert advantages(torch.tensor([1.0, 1.0, 0.0, 1.0]), 2).tolist()[:2] == [0.0, 0.0]


def test_better_than_the_group_is_positive() -> None:
    first, second = advantages(torch.tensor([2.0, 1.0]), 2).tolist()
    assert first > 0 > second


def test_padding_and_prompts_are_not_trained_on() -> None:
    batch = make_batch([[5, 6], [5]], [[7], [8, 9]], pad=0)
    assert batch.is_response_BT.tolist() == [[False, False, True], [False, True, True]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=40)
    main(parser.parse_args().updates)
