from __future__ import annotations

from command_runs import demo_run, replay_run

__all__ = ["demo_run", "replay_run"]
