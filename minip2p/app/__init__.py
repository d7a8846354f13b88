"""The page in the browser (`minip2p app`): a tab for each thing that one wants to see, on gradio (extra `app`).

models.py     the networks that the page uses, and how they were loaded
uploads.py    pictures and masks that a browser sends, within limits
jobs.py       one computation at a time, with previews, that stops when nobody wants its result any more
results.py    images in a temporary folder, with the metadata that `minip2p show` reads
edit.py       the first tab: edits, several seeds, a grid of scales
pairs.py      the second: two images of two prompts (Prompt-to-Prompt)
attention.py  the third: where each word looks
world.py      the fourth: the tiny world, where the right answer is known
tabs/         what each tab looks like, and how its parts are wired to what it computes
page.py       the tabs together; serve.py: gradio, closed to the outside

What a tab computes is a generator that knows nothing of gradio, which is imported only where the page is built.
"""
