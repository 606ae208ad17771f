"""From a store to a connected communicator, and from there to a torch.distributed backend.

``bootstrap`` agrees on the group through a store, ``host`` says where this process is and which
address it listens on, ``rdma`` which RDMA ports are used, of those that ``discovery.ports`` reads,
and ``pairs`` what joins each pair of ranks and why. ``backend`` is what torch calls, ``recorder``
writes what the flight recorder holds, in the form that ``trace`` gives it. Only ``backend`` imports
torch.
"""
