"""Who meets whom, and when: a round-robin tournament by the circle method."""

MAX_ROUNDS = 64


def rounds(world: int) -> list[int]:
    """Return the rounds that are played, evenly spread where there are more than MAX_ROUNDS.

    Args:
        world: how many take part.

    """
    every = world + world % 2 - 1 if world > 1 else 0
    if every <= MAX_ROUNDS:
        return list(range(every))
    return [i * every // MAX_ROUNDS for i in range(MAX_ROUNDS)]


def partner(rank: int, number: int, world: int) -> int | None:
    """Return whom a rank meets in a round; None for nobody, as of an odd number one must wait.

    Args:
        rank: who asks.
        number: of the round, from 0.
        world: how many take part, at least 2.

    """
    last = world + world % 2 - 1  # meets whoever would meet itself
    if rank == last:
        other = number * ((last + 1) // 2) % last
    else:
        other = (number - rank) % last
        other = last if other == rank else other
    return other if other < world else None
