"""Sampling: drawing responses to prompts, and what a stage does with them while others are drawn.

| module | what it holds |
| --- | --- |
| sampling | what stages call: `sample`, `sample_and_verify` |
| teachers | models that write data on request, and their prompts |
| contract | Sample, Draw, Unit, and the Generator that a back end implements |
| backends | the choice of a back end by `sampling.backend` |
| hf, vllm, openai | the back ends: PyTorch in this process, vLLM in this process, a service |
| sampling_loop, ray_cluster | the loop over all rows in this process, or over a Ray cluster |
| journal | records on disk that survive a kill |
| decoding, token_sampling, sampling_kernel | the PyTorch loop that `hf` and RL without vLLM draw with |
| cuda_graphs, cached_attention, cached_kernel, joint_linear | the same loop as CUDA graphs |

What is drawn depends on the config and the seed alone: not on a kill, on the number of ranks, or on what was ready
first. With a service that holds only as far as the service respects `seed`.
"""
