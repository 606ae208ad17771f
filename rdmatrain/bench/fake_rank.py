"""A rank of torch's process group that does nothing: what is left is the price of a call.

It is alone in its group, so that what it leaves in the tensors is right.
"""

import sys

from rdmatrain.bench.rank import Rank, main


class FakeRank(Rank):
    """Answers the conductor's orders."""

    def _form_group(self) -> None:
        from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: PLC0415

        self._dist.init_process_group("fake", rank=0, world_size=1, store=FakeStore())


if __name__ == "__main__":
    sys.exit(main(FakeRank))
