"""From a store to a connected communicator, and from there to a torch.distributed backend.

``bootstrap`` agrees on the group through a store, ``host`` says where this process is and which
address it listens on, ``backend`` is what torch calls. Only ``backend`` imports torch.
"""
