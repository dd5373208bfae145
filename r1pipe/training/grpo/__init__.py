"""GRPO (v2 2.1): grpo_training.py trains a policy, grpo_trainer.py overrides TRL, docs/grpo.md explains both."""
