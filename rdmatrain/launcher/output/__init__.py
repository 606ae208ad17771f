"""What workers print: whole lines behind their rank, files of each rank, nothing lost.

``streams`` says which streams go where, ``files`` where the files lie, ``lines`` cuts and marks,
``sinks`` are the ends that lines are written to; ``pump`` moves all of it in the launcher's loop.
"""

from rdmatrain.launcher.output.pump import OutputPump
from rdmatrain.launcher.output.streams import Streams, streams_of

__all__ = ["OutputPump", "Streams", "streams_of"]
