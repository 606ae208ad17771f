"""What this machine has, what this pod was given, and which GPU goes with which NIC.

A machine is data: everything is read through a :class:`~rdmatrain.discovery.source.Source`, so a
saved snapshot gives the answers that the machine gave. Nothing here imports torch. README.md in
this folder has the map.
"""
