"""The tiny world: a synthetic world of small images in which the right answer to every edit is known.

scenes.py      Scene and Edit, and how they are sampled; wording.py: their captions and instructions in English
drawing/       a scene as an image
grammar.py     captions parsed back; whether an edited caption follows from a caption and an instruction
classifier.py  a network that predicts a scene's attributes from an image
evaluation/    how good editors, text-to-image models, pairs, inversion, the classifier and instructions are
training/      the stages that train the shipped weights (weights/tiny), in the order of recipe.py
miniature.py   the paper's data generation in miniature: captions -> instructions -> pairs -> filter -> report

    rng = np.random.default_rng(0)
    edit = sample_edit(rng)                                # edit.source, edit.instruction, edit.target
    image = minip2p.load().edit(render(edit.source), edit.instruction)
    correct, psnr = evaluate(image, edit, rng)
"""

from .evaluation.edits import evaluate
from .scenes import Scene, render, sample_edit, sample_scene

__all__ = ["Scene", "evaluate", "render", "sample_edit", "sample_scene"]
