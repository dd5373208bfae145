"""The key `track:`: what a run writes into metrics.jsonl goes to TensorBoard, trackio or Weights & Biases as well.

A tracker lives in a process of its own (follower.py), which reads the files that a stage writes anyway. So it takes
nothing from the random numbers, the memory or the time of a training, and may fail, hang or be killed without one.
"""

from r1pipe.run.tracking.tracking import Tracking, check_trackers

__all__ = ["Tracking", "check_trackers"]
