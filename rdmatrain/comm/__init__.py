"""From a store to a connected communicator, and from there to a torch.distributed backend.

``bootstrap`` agrees on the group through a store, ``host`` says where this process is and which
address it listens on, ``gids`` which RDMA ports there are, ``rdma`` which of them are used, and
``pairs`` what joins each pair of ranks and why. ``backend`` is what torch calls, ``recorder``
writes what the flight recorder holds, in the form that ``trace`` gives it. Only ``backend`` imports
torch.
"""
