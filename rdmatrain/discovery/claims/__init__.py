"""What a pod's environment and files say about its devices: one module for each who says it.

Each yields findings, and none looks at the devices themselves. ``rdmatrain.discovery.pod`` puts all
together.
"""

from rdmatrain.discovery.model import Complaint
from rdmatrain.discovery.pod_model import Claim, Request, Restriction

Finding = Claim | Request | Restriction | Complaint
