"""Damaged files of all kinds: always a result or a named problem, within limits. See fuzz.py.

PADDLEVID_FUZZ_CASES sets their number (`make fuzz`: 6,000), PADDLEVID_FUZZ_FIRST the first of them.
"""

import os
import sys
import time
from collections import Counter

import fuzz
import pytest

FIRST = int(os.environ.get("PADDLEVID_FUZZ_FIRST", "0"))
CASES = int(os.environ.get("PADDLEVID_FUZZ_CASES", "0")) or len(fuzz.CRAFTED) + 150

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")


def test_any_file_gives_a_result_or_a_problem_that_names_it(tmp_path, capsys):
    fuzz.make_bases(tmp_path / "bases")
    started, bad, outcomes, slowest, largest = time.monotonic(), [], Counter(), None, None
    for result in fuzz.run_cases(tmp_path, FIRST, FIRST + CASES):
        outcomes[result.outcome if result.is_good else "bad"] += 1
        slowest = max(slowest or result, result, key=lambda r: r.seconds)
        largest = max(largest or result, result, key=lambda r: r.grown)
        if not result.is_good:
            bad.append(result)
            with capsys.disabled():
                print(f"\n{result}", flush=True)
    with capsys.disabled():
        print(
            f"\n{sum(outcomes.values())} cases in {time.monotonic() - started:.0f} s: "
            f"{dict(outcomes)}\nslowest: {slowest}\nlargest: {largest}"
        )
    assert not bad, f"{len(bad)} cases, the first: {bad[0]}"
    assert sum(outcomes.values()) == CASES
    assert outcomes["result"] and outcomes["problem"]
