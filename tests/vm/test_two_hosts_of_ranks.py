"""Two hosts with two ranks each: sums by host over RDMA, and what they cost on the wire."""

import json

import pytest

pytestmark = pytest.mark.timeout(900)

PROGRAM = [".venv/bin/python", "tests/vm/host_ranks.py"]


def test_an_all_reduce_by_hosts_is_right_and_sends_little_more_than_it_must(hosts):
    running = [
        guest.start([*PROGRAM, str(i), f"10.9.0.{i + 1}", "10.9.0.1"])
        for i, guest in enumerate(hosts)
    ]
    done = [command.wait(400) for command in running]
    for one in done:
        assert one.status == 0, one.output
        facts = json.loads(one.output.splitlines()[-1])
        print(facts)
        assert facts["cells"] > 60
        assert facts["staged_bytes"] == 0
        # Each host must send a share of its sums, and then one of the result: n (H-1)/H twice.
        assert facts["optimum_bytes"] <= facts["sent_bytes"] <= 1.1 * facts["optimum_bytes"]
