from __future__ import annotations

from dds_fixtures import domain, probe, run, start

__all__ = ["domain", "probe", "run", "start"]
