"""Training: one loop (`loop.py`), and a file for each stage: vae, clip, diffusion, language.

loop.py          data, step, log, save, preview
step.py          a step of the optimiser and the weights' average; precision.py (bfloat16), graphs.py (CUDA graphs)
plan.py          what is left open in a config, decided by what the device can do; memory.py estimates what it takes
stages.py        stages by name, with their configs and presets; `start` starts or resumes a run
build.py         the networks that a run starts from
data.py          batches by their number, prepared by workers; examples of a denoiser and mixtures of sets (pairs.py)
rng.py           random numbers by an item's number
state.py         what a run needs to resume; logs.py, stops.py, progress.py: what a run reports
ranks.py         several processes that train one model (fsdp.py)
"""
