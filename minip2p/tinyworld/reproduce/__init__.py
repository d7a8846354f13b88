"""The paper's evidence in the tiny world, as one report (`minip2p tiny reproduce`).

run.py         all parts in turn, and the report; report.py writes it as Markdown and as HTML
sizes.py       how large each part is; cost.py: what that costs
claims.py      whether a number has the shape that the paper claims
parts.py       what the parts share: where they work, with which models, what they return
figure3.py     Prompt-to-Prompt: what two images of two captions have in common
made.py        pairs made from captions alone, in three ways
figure8.py     the editor against SDEdit
figure10.py    less data, no filter, no sharing
ceiling.py     how much better an editor of true pairs is
ablations.py   one change to the editor in each row
editors.py     the editors that the last three train and evaluate; sets.py: sets of pairs without files
"""
