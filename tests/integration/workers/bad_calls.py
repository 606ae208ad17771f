"""Calls that are wrong on one rank or on all: each rank must get one clear error, never a hang."""

import torch
import torch.distributed as dist
from checklib import check, main, note, raised_by, values


def rank() -> int:
    return dist.get_rank()


def world() -> int:
    return dist.get_world_size()


def odd_one_out() -> bool:
    """Rank 1 is the one that differs."""
    return rank() == 1


def first_error(name, among, call, *args, **kwargs):
    """What this rank learns: from the call or, where that needs no answer, from the next one."""

    def call_and_meet():
        call(*args, **kwargs)
        dist.barrier(among)

    error = raised_by(call_and_meet)
    note(**{f"text_{name}": str(error)})
    assert isinstance(error, dist.DistBackendError), (type(error), str(error))
    assert "\n" not in str(error), error
    return str(error)


def expect_both_named(text, *parts):
    missing = [part for part in ("rank 0", "rank 1", *parts) if part not in text]
    # With three ranks, 0 or 2 may be the one that rank 1 is compared with.
    if "rank 0" in missing and "rank 2" in text:
        missing.remove("rank 0")
    assert not missing, f"{missing} not in: {text}"


def expect_alive(group):
    x = values(rank(), 10)
    dist.all_reduce(x, group=group)
    assert x.tolist() == torch.stack([values(r, 10) for r in range(world())]).sum(0).tolist()


@check
def shapes_that_differ(group):
    x = torch.ones(20 if odd_one_out() else 10)
    text = first_error("shapes", group, dist.all_reduce, x, group=group)
    expect_both_named(text, "10 elements", "20 elements", "all_reduce")


@check
def shapes_of_one_size_that_differ(group):
    x = torch.ones((2, 5) if odd_one_out() else (5, 2))
    text = first_error("dims", group, dist.all_reduce, x, group=group)
    expect_both_named(text, "[2, 5]", "[5, 2]")


@check
def inputs_of_one_size_and_different_shape(group):
    x = torch.ones((2, 5) if odd_one_out() else (5, 2))
    out = torch.empty(world(), *x.shape)
    text = first_error("gdims", group, dist.all_gather_into_tensor, out, x, group=group)
    expect_both_named(text, "[2, 5]", "[5, 2]")


@check
def sparse_tensors_of_dtypes_that_differ(group):
    x = torch.eye(3, dtype=torch.int32 if odd_one_out() else torch.float32).to_sparse()
    text = first_error("sparse_dtypes", group, dist.all_reduce, x, group=group)
    expect_both_named(text, "Float", "Int")


@check
def sparse_tensors_of_sparse_dimensions_that_differ(group):
    x = torch.eye(3).to_sparse(1 if odd_one_out() else 2)
    text = first_error("sparse_dims", group, dist.all_reduce, x, group=group)
    expect_both_named(text, "1 sparse dimension", "2 sparse dimensions")


@check
def lists_whose_lengths_differ(group):
    # The second tensor must not meet the next call of rank 1.
    xs = [torch.ones(4) for _ in range(1 if odd_one_out() else 2)]

    def reduce_all():
        group.allreduce_coalesced(xs, dist.AllreduceCoalescedOptions()).wait()
        dist.all_reduce(torch.ones(4), group=group)

    text = first_error("lengths", group, reduce_all)
    expect_both_named(text, "one of 1", "one of 2")


@check
def parts_that_differ_in_an_all_to_all(group):
    # Rank 1 sends rank 0 one row more than that takes.
    sent = [3 if odd_one_out() and target == 0 else 2 for target in range(world())]
    x, out = torch.ones(sum(sent)), torch.empty(2 * world())
    text = first_error("splits", group, dist.all_to_all_single, out, x, None, sent, group=group)
    expect_both_named(text, "3 elements", "2 taken")


@check
def large_shapes_that_differ_by_one(group):
    x = torch.ones(1_000_001 if odd_one_out() else 1_000_000)
    text = first_error("large", group, dist.all_reduce, x, group=group)
    expect_both_named(text, "1000000 elements", "1000001 elements")


@check
def an_empty_tensor_on_one_rank_only(group):
    x = torch.ones(0 if odd_one_out() else 10)
    text = first_error("empty", group, dist.all_reduce, x, group=group)
    expect_both_named(text, " 0 elements", "10 elements")


@check
def dtypes_that_differ(group):
    x = torch.ones(10, dtype=torch.float64 if odd_one_out() else torch.float32)
    text = first_error("dtypes", group, dist.all_reduce, x, group=group)
    expect_both_named(text, "float32", "float64")


@check
def dtypes_of_one_size_that_differ(group):
    x = torch.ones(10, dtype=torch.int32 if odd_one_out() else torch.float32)
    text = first_error("same_size", group, dist.all_reduce, x, group=group)
    expect_both_named(text, "float32", "int32")


@check
def reductions_that_differ(group):
    op = dist.ReduceOp.MAX if odd_one_out() else dist.ReduceOp.SUM
    text = first_error("ops", group, dist.all_reduce, torch.ones(10), op=op, group=group)
    expect_both_named(text, "SUM", "MAX")


@check
def roots_that_differ(group):
    root = 1 if odd_one_out() else 0
    text = first_error("roots", group, dist.broadcast, torch.ones(10), src=root, group=group)
    expect_both_named(text, "root 0", "root 1")


@check
def broadcasts_of_different_sizes(group):
    x = torch.ones(20 if odd_one_out() else 10)
    text = first_error("broadcasts", group, dist.broadcast, x, src=0, group=group)
    expect_both_named(text, "10 elements", "20 elements")


@check
def large_broadcasts_of_different_sizes(group):
    x = torch.ones(2_000_000 if odd_one_out() else 1_000_000)
    text = first_error("large_broadcasts", group, dist.broadcast, x, src=0, group=group)
    expect_both_named(text, "1000000 elements", "2000000 elements")


@check
def gathers_of_different_sizes(group):
    n = 20 if odd_one_out() else 10
    out = [torch.empty(n) for _ in range(world())]
    text = first_error("gathers", group, dist.all_gather, out, torch.ones(n), group=group)
    expect_both_named(text, "10 elements", "20 elements")


@check
def scatters_of_different_sizes(group):
    n = 20 if odd_one_out() else 10
    x = torch.ones(n * world())
    call = dist.reduce_scatter_tensor
    text = first_error("scatters", group, call, torch.empty(n), x, group=group)
    expect_both_named(text, "10 elements", "20 elements")


@check
def different_collectives(group):
    x = torch.ones(10)
    if odd_one_out():
        out = [torch.empty(10) for _ in range(world())]
        text = first_error("collectives", group, dist.all_gather, out, x, group=group)
    else:
        text = first_error("collectives", group, dist.all_reduce, x, group=group)
    expect_both_named(text, "all_reduce", "all_gather")


@check
def a_broadcast_against_an_all_reduce(group):
    x = torch.ones(10)
    if odd_one_out():
        text = first_error("bcast_reduce", group, dist.all_reduce, x, group=group)
    else:
        text = first_error("bcast_reduce", group, dist.broadcast, x, src=0, group=group)
    expect_both_named(text, "all_reduce", "broadcast")


@check
def a_barrier_against_an_all_reduce(group):
    if odd_one_out():
        text = first_error("barrier", group, dist.barrier, group)
    else:
        text = first_error("barrier", group, dist.all_reduce, torch.ones(10), group=group)
    expect_both_named(text, "all_reduce", "barrier")


@check
def a_send_and_a_recv_of_different_sizes(group):
    if rank() == 0:
        text = first_error("send", group, dist.send, torch.ones(3000), 1, group=group)
    elif rank() == 1:
        text = first_error("send", group, dist.recv, torch.ones(4000), 0, group=group)
    else:
        return
    expect_both_named(text, "3000 elements", "4000 elements", "send", "recv")


@check
def a_send_and_a_recv_of_different_dtypes(group):
    if rank() == 0:
        text = first_error("send", group, dist.send, torch.ones(3000).int(), 1, group=group)
    elif rank() == 1:
        text = first_error("send", group, dist.recv, torch.ones(3000), 0, group=group)
    else:
        return
    expect_both_named(text, "float32", "int32")


@check
def what_comes_after_a_mismatch_fails_with_the_same_reason(group):
    x = torch.ones(20 if odd_one_out() else 10)
    first = first_error("first", group, dist.all_reduce, x, group=group)
    again = str(raised_by(dist.all_reduce, torch.ones(3), group=group))
    assert "10 elements" in again and "20 elements" in again, again
    assert len(again) < 2 * len(first) + 200


def root_at(rank):
    options = dist.BroadcastOptions()
    options.rootRank = rank
    return options


def refused_on_all(among, call, *args, parts, **kwargs):
    """All ranks refuse alike, so the group is in step and goes on."""
    error = raised_by(call, *args, **kwargs)
    text = str(error)
    note(text_refused=text)
    assert isinstance(error, RuntimeError), type(error)
    assert "\n" not in text, text
    for part in (f"rank {rank()}", *parts):
        assert part in text, (part, text)
    expect_alive(among)


@check
def a_maximum_of_complex_numbers_on_all_ranks(group):
    # Through the group: dist.all_reduce has a check of its own.
    x = torch.ones(4, dtype=torch.complex64)
    parts = ["all_reduce", "ComplexFloat", "MAX"]
    refused_on_all(group, lambda: group.allreduce([x], dist.ReduceOp.MAX).wait(), parts=parts)


@check
def an_average_of_bools_on_all_ranks(group):
    x = torch.ones(4, dtype=torch.bool)
    call, op = dist.all_reduce, dist.ReduceOp.AVG
    refused_on_all(group, call, x, op=op, group=group, parts=["all_reduce", "Bool", "AVG"])


@check
def a_reduce_scatter_of_bare_exponents_on_all_ranks(group):
    x = torch.ones(4 * world()).to(torch.float8_e8m0fnu)
    out = torch.empty(4, dtype=torch.float8_e8m0fnu)
    call = dist.reduce_scatter_tensor
    refused_on_all(group, call, out, x, group=group, parts=["reduce_scatter", "Float8_e8m0fnu"])


@check
def a_bitwise_reduction_of_floats_on_all_ranks(group):
    call, op = dist.reduce, dist.ReduceOp.BAND
    parts = ["reduce", "BAND", "Float"]
    refused_on_all(group, call, torch.ones(4), 0, op=op, group=group, parts=parts)


@check
def a_maximum_of_sparse_tensors_on_all_ranks(group):
    x, op = torch.eye(3).to_sparse(), dist.ReduceOp.MAX
    refused_on_all(group, dist.all_reduce, x, op=op, group=group, parts=["all_reduce", "sparse"])


@check
def a_sparse_tensor_in_a_list_on_all_ranks(group):
    # Most calls never come this far: torch's dispatcher knows no sparse kernel for them.
    backend = group._get_backend(torch.device("cpu"))
    x = torch.eye(3).to_sparse()
    refused_on_all(group, backend.broadcast, [x], root_at(0), parts=["broadcast", "sparse"])


@check
def splits_that_do_not_add_up_on_all_ranks(group):
    x, call = torch.ones(2 * world()), dist.all_to_all_single
    parts = ["all_to_all_single", f"{2 * world()} rows", f"splits have {3 * world()}"]
    splits = [3] * world()
    refused_on_all(group, call, x.clone(), x, None, splits, group=group, parts=parts)
    parts = ["do not divide equally"]
    x = torch.ones(2 * world() + 1)
    refused_on_all(group, call, x.clone(), x, group=group, parts=parts)
    x = torch.ones(2 * world())
    splits = [2**63 - 1, 2**63 - 1, 2 * world() + 2][: world()]  # of three, the sum would wrap
    refused_on_all(group, call, x.clone(), x, splits, splits, group=group, parts=["splits have"])
    splits = [2 * world() + 1, -1] + [0] * (world() - 2)
    refused_on_all(group, call, x.clone(), x, None, splits, group=group, parts=["negative"])


@check
def a_list_with_another_dtype_on_all_ranks(group):
    x = [torch.ones(2) for _ in range(world())]
    out = [torch.ones(2).int() for _ in range(world())]
    parts = ["all_to_all", "Int", "Float"]
    refused_on_all(group, lambda: group.alltoall(out, x).wait(), parts=parts)


@check
def lists_on_the_wrong_rank_on_all_ranks(group):
    options = dist.GatherOptions()
    options.rootRank = 0
    lists = [[torch.ones(2) for _ in range(world())]] if rank() > 0 else []
    call = lambda: group.gather(lists, [torch.ones(2)], options).wait()  # noqa: E731
    refused_on_all(group, call, parts=["gather", "on the root"])


@check
def an_output_of_the_wrong_size_on_all_ranks(group):
    call = dist.all_gather_into_tensor
    out, x = torch.empty(3 * world() + 1), torch.ones(3)
    parts = [f"not {3 * world() + 1}", "3 elements"]
    refused_on_all(group, call, out, x, group=group, parts=parts)


@check
def an_input_of_the_wrong_size_on_all_ranks(group):
    call = dist.reduce_scatter_tensor
    out, x = torch.empty(3), torch.ones(3 * world() + 1)
    refused_on_all(group, call, out, x, group=group, parts=[f"not {3 * world() + 1}"])


@check
def a_list_of_the_wrong_length_on_all_ranks(group):
    out = [torch.empty(3)] * (world() + 1)
    refused_on_all(group, dist.all_gather, out, torch.ones(3), group=group, parts=["one output"])


@check
def a_wrong_root_on_all_ranks(group):
    parts = [f"root {world() + 4}"]
    options = root_at(world() + 4)
    refused_on_all(group, group.broadcast, [torch.ones(3)], options, parts=parts)


@check
def a_meta_tensor_on_all_ranks(group):
    # torch.distributed itself does nothing for meta tensors, so this goes to the backend.
    backend = group._get_backend(torch.device("cpu"))
    x = torch.ones(3, device="meta")
    refused_on_all(group, backend.allreduce, [x], parts=["is on meta", "accelerators"])
    error = raised_by(backend.send, [x], (rank() + 1) % world(), 0)
    assert f"rank {rank()}: send: a tensor is on meta" in str(error), error
    expect_alive(group)


@check
def a_wrong_peer_is_refused(group):
    error = raised_by(dist.send, torch.ones(3), world() + 2, group=group)
    note(text_peer=str(error))
    assert str(world() + 2) in str(error), error
    error = raised_by(dist.send, torch.ones(3), rank(), group=group)
    note(text_self=str(error))
    expect_alive(group)


def refused_on_one(name, group, bad, good):
    """Rank 1 refuses, the others do not: it is told why, they are told that it did and why."""
    error = raised_by(bad if odd_one_out() else good)
    text = str(error)
    note(**{f"text_{name}": text})
    assert isinstance(error, RuntimeError), type(error)
    for part in ("rank 1", name):
        assert part in text, (part, text)
    if not odd_one_out():
        assert "refused" in text and isinstance(error, dist.DistBackendError), text
    after = str(raised_by(dist.all_reduce, torch.ones(2), group=group))
    assert name in after, after


@check
def an_average_of_bools_on_one_rank(group):
    refused_on_one(
        "Bool",
        group,
        lambda: dist.all_reduce(torch.ones(4).bool(), op=dist.ReduceOp.AVG, group=group),
        lambda: dist.all_reduce(torch.ones(4), group=group),
    )


@check
def a_bitwise_reduction_of_floats_on_one_rank(group):
    refused_on_one(
        "BAND",
        group,
        lambda: dist.all_reduce(torch.ones(4), op=dist.ReduceOp.BAND, group=group),
        lambda: dist.all_reduce(torch.ones(4).int(), group=group),
    )


@check
def a_maximum_of_sparse_tensors_on_one_rank(group):
    sparse = torch.eye(3).to_sparse()
    refused_on_one(
        "sparse",
        group,
        lambda: dist.all_reduce(sparse, op=dist.ReduceOp.MAX, group=group),
        lambda: dist.all_reduce(torch.ones(3, 3), group=group),
    )


@check
def a_tensor_without_memory_on_one_rank(group):
    freed = torch.ones(4)
    freed.untyped_storage().resize_(8)
    refused_on_one(
        "was freed",
        group,
        lambda: dist.all_reduce(freed, group=group),
        lambda: dist.all_reduce(torch.ones(4), group=group),
    )


@check
def a_wrong_output_size_on_one_rank(group):
    def gather(size):
        return dist.all_gather_into_tensor(torch.empty(size), torch.ones(3), group=group)

    refused_on_one("all_gather_into_tensor", group, lambda: gather(3), lambda: gather(3 * world()))


@check
def a_refusal_against_a_large_all_reduce(group):
    refused_on_one(
        "Bool",
        group,
        lambda: dist.all_reduce(torch.ones(4).bool(), op=dist.ReduceOp.AVG, group=group),
        lambda: dist.all_reduce(torch.ones(4_000_000), group=group),
    )


if __name__ == "__main__":
    main()
