"""A server of its own under load, with faults: ten seconds of what `make load` does in half an
hour."""

from __future__ import annotations

import asyncio
from pathlib import Path

from support.load import (
    beside_a_slow_client,
    killed,
    loaded,
    logged,
    over_a_damaged_index,
    serving,
    under_a_full_disk,
)
from support.model_folder import save


def test_under_load_and_faults_nothing_unverified_leaves_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    save(tmp_path, copy=0.9999)
    log, index = tmp_path / "log.jsonl", tmp_path / "i"
    tiny = {"MODEL": str(tmp_path / "model"), "INDEX": str(index), "STEPS": "6", "BODY_S": "1"}
    with serving(log, **tiny) as (address, process):
        loads = [asyncio.run(loaded(address, clients, 2.5)) for clients in (1, 8)]
        assert beside_a_slow_client(address) == [200, 408]
        assert under_a_full_disk(address, log) == [503, 200]
        assert over_a_damaged_index(address, process, index) == [503, 200]
        loads.append(asyncio.run(loaded(address, 8, 2)))
        assert asyncio.run(killed(address, process, 0.05)) in ("ReadError", "RemoteProtocolError")
    for load in loads:
        assert load.statuses.keys() <= {200, 429}
        assert load.statuses[200] >= load.clients
        assert load.unverified == 0
    requests, torn = logged(log)
    assert {one for load in loads for one in load.requests} <= requests
    assert torn <= 1
    assert loads[-1].memory < 1.1 * loads[1].memory
