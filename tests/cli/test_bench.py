"""`trainer bench` under torchrun: every engine and option takes its turns beside the plain loop."""

import json
from pathlib import Path

import pytest

from tests.support import ranks

pytestmark = [pytest.mark.engines, pytest.mark.timeout(400)]


def test_the_table_has_a_row_for_each_engine_and_option_beside_the_plain_loop(tmp_path: Path) -> None:
    bench = ["bench", "--presets", "tiny", "--seconds", "1", "--json"]
    processes = ranks.trainer(*bench, folder=tmp_path, world_size=2)
    codes = processes.wait(deadline_s=330)
    assert codes == [0, 0], f"{codes}\n{processes.text()}"
    text = processes.outputs[0].read_text()
    result = json.loads(text[text.index("{") :])
    assert {"device", "torch", "cores", "processes"} <= set(result["machine"])
    (preset,) = result["presets"]
    loops = {loop["name"]: loop for loop in preset["loops"]}
    zero = {f"ZeRO-{stage}" for stage in range(4)}
    options = {"trainer", "muon", "recomputing", "ddp", "ddp muon", "ddp overlapped", "ddp bf16 sums", "fsdp"}
    # where this machine computes faster in bf16, fp32 stands beside it
    assert set(loops) - {"trainer in fp32"} == {"plain"} | options | zero
    assert loops["plain"]["useful_ratio"] == loops["plain"]["positions_ratio"] == 1.0
    for loop in loops.values():
        assert loop["turns"] >= 3
        assert loop["useful_tokens_per_s"] > 0
        assert loop["mfu"] > 0  # how far depends on what else the machine does while its peak is measured
    assert loops["fsdp"]["processes"] == 2
