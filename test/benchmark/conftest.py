from __future__ import annotations

from dds_fixtures import bench, domain, probe, run, start

__all__ = ["bench", "domain", "probe", "run", "start"]
