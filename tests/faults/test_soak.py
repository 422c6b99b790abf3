"""A small soak; scripts/soak runs the long one."""

from __future__ import annotations

from pathlib import Path

from benchmarks.soak import soak


async def test_all_settled_and_none_wrong(tmp_path: Path) -> None:
    outcome = await soak("pbs", tasks=200, trouble=3600.0, seed=1, root=tmp_path)
    assert not outcome.wrong
    assert outcome.settled == 200
    assert outcome.ends["DONE"] >= 100
    assert outcome.faults
