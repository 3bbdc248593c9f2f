from __future__ import annotations

from command_runs import demo_run, replay_run
from dds_fixtures import domain, probe, run, start

__all__ = ["demo_run", "domain", "probe", "replay_run", "run", "start"]
