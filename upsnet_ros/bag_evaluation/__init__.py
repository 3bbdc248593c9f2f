"""Evaluates bags against ground truth: one bag in this process, or many bags on many workers.

`State` stores the result of each bag. `gather` sends bags without a stored result to processes on
this machine (`evaluate_locally`) or to a Ray cluster (`evaluate_on_ray`) and merges the results.
"""

from __future__ import annotations
