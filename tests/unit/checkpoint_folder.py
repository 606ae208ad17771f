# SPDX-License-Identifier: Apache-2.0
"""Saves, loads and damages checkpoints whose ranks are threads."""

import torch
from fake_ranks import on_ranks

from rdmatrain.train import Checkpoints


def state_of(step, rank=0):
    return {"weights": torch.full((5,), 10.0 * step + rank), "list": [(step, rank)], "text": "x"}


def save(root, step, world=1, **options):
    def act(ranks):
        return Checkpoints(root, ranks, **options).save(step, state_of(step, ranks.rank))

    return on_ranks(world, act)


def load(root, world=1, **options):
    return on_ranks(world, lambda ranks: Checkpoints(root, ranks, **options).load())


def expect_step(root, step, world=1):
    """Every rank loads its own state of that step."""
    for rank, found in enumerate(load(root, world)):
        assert found.step == step
        assert found.state["weights"].tolist() == [10.0 * step + rank] * 5
        assert found.state["list"] == [(step, rank)]


def names(root):
    return sorted(int(path.name.removeprefix("generation-")) for path in root.iterdir())


def shard(root, generation, rank=0):
    return root / f"generation-{generation:010}" / f"rank-{rank:05}.pt"


def manifest(root, generation):
    return root / f"generation-{generation:010}" / "manifest.json"


def flip(path, bit):
    raw = bytearray(path.read_bytes())
    raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    path.write_bytes(raw)


def swap(one, other):
    raw = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(raw)
