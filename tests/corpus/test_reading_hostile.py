"""Input that was made to do harm gets a counted reason: within limits of memory and time that the kernel enforces."""

from pathlib import Path

from tests.support import limited
from tests.support.hostile import CASES, find_in_tables, rules_of, write_cases


def test_hostile_input_is_counted_with_its_rule_and_harms_neither_memory_nor_time(tmp_path: Path) -> None:
    write_cases(tmp_path)
    found = limited.call(rules_of, str(tmp_path), megabytes=150, seconds=60)
    assert {name: list(rules) for name, rules in found.items()} == {name: [rule] for name, (_, _, rule) in CASES.items()}


def test_tables_of_deduplication_stay_within_their_bound(tmp_path: Path) -> None:
    """Sorted at once, the bands of these documents would take 220 MB."""
    found = limited.call(find_in_tables, str(tmp_path), megabytes=64, seconds=60)
    assert found == {"equal": 9 * 100, "near": 9 * 200}
