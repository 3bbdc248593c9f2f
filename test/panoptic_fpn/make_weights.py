"""Full sets of weights under detectron2's names for Panoptic FPN, made by a rule (seeded from each tensor's name).

state = make_state_dict("state_dict_r50.tsv", seed, overrides)   # {name: float32 ndarray}
"""

import os, re, zlib

import numpy as np

# name pattern -> (distribution, parameters); first match wins.
# he: normal, std = gain * sqrt(2 / fan_in); hec: the same, every output row centred; n: normal; u: uniform;
# last: normal, and a constant added to the last element (the background class)
RULES = [
    (r"stem\.conv1\.weight$", ("he", 0.02)),
    (r"running_var$", ("u", 0.8, 1.2)),
    (r"running_mean$", ("n", 0, 0.1)),
    (r"bottom_up.*conv3\.norm\.weight$", ("u", 0.3, 0.5)),
    (r"shortcut\.norm\.weight$", ("u", 0.8, 1.0)),
    (r"bottom_up.*norm\.weight$", ("u", 0.6, 0.9)),
    (r"bottom_up.*norm\.bias$", ("n", 0, 0.1)),
    (r"bottom_up.*\.weight$", ("hec", 1.0)),
    (r"fpn_lateral5\.weight$", ("hec", 2.0)),
    (r"fpn_lateral4\.weight$", ("hec", 1.0)),
    (r"fpn_lateral3\.weight$", ("hec", 0.6)),
    (r"fpn_lateral2\.weight$", ("hec", 0.5)),
    (r"fpn_output\d\.weight$", ("he", 0.7)),
    (r"rpn_head\.conv\.weight$", ("hec", 1.0)),
    (r"objectness_logits\.weight$", ("hec", 0.8)),
    (r"objectness_logits\.bias$", ("n", -2.5, 0.1)),
    (r"anchor_deltas\.weight$", ("hec", 0.15)),
    (r"box_head\.fc\d\.weight$", ("hec", 1.3)),
    (r"cls_score\.weight$", ("hec", 1.6)),
    (r"cls_score\.bias$", ("last", 0, 0.3, 7.0)),
    (r"bbox_pred\.weight$", ("hec", 0.6)),
    (r"mask_head\.predictor\.weight$", ("hec", 4.0)),
    (r"mask_head\.predictor\.bias$", ("n", 0.6, 0.3)),
    (r"mask_head\..*\.weight$", ("hec", 1.0)),
    (r"sem_seg_head\.predictor\.weight$", ("hec", 1.5)),
    (r"sem_seg_head\.predictor\.bias$", ("n", 0, 0.3)),
    (r"sem_seg_head.*norm\.weight$", ("u", 0.8, 1.2)),
    (r"sem_seg_head.*norm\.bias$", ("n", 0, 0.2)),
    (r"sem_seg_head.*\.weight$", ("hec", 1.0)),
    (r"bias$", ("n", 0, 0.05)),
]


def make_tensor(name, shape, seed, overrides=()):
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) + int(seed)))
    rule = next(
        rule for pattern, rule in [*map(tuple, overrides), *RULES] if re.search(pattern, name)
    )
    kind, *p = rule
    fan = shape[0] if "deconv" in name else int(np.prod(shape[1:])) or 1
    if kind == "u":
        a = rng.uniform(p[0], p[1], shape)
    elif kind == "n":
        a = p[0] + p[1] * rng.standard_normal(shape)
    elif kind == "last":
        a = p[0] + p[1] * rng.standard_normal(shape)
        a[-1] += p[2]
    else:
        a = rng.standard_normal(shape) * p[0] * np.sqrt(2 / fan)
        if kind == "hec":
            a -= a.reshape(shape[0], -1).mean(1).reshape(-1, *[1] * (len(shape) - 1))
    return a.astype(np.float32)


def make_state_dict(table, seed, overrides=()):
    state = {}
    with open(table) as lines:
        next(lines)
        for line in lines:
            name, shape = line.rstrip("\n").split("\t")[:2]
            state[name] = make_tensor(
                name, tuple(int(n) for n in shape.split(",")), seed, overrides
            )
    return state
