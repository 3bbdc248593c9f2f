"""Judging many bags on many workers, with the figures of judging them in one process.

`State` keeps what each bag gave, `spread` hands bags to the workers of a `Pool` and comes to terms
with those that are lost; `upsnet_ros.evaluation.partial.PartialResult` puts the parts together.
"""

from __future__ import annotations
