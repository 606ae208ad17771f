"""What each orchestrator leaves in a pod: markers, and where it says who the pod is.

``adapters.py`` has the table: a new orchestrator is one entry there and a golden environment in
``tests/fixtures/orchestrators``. ``rules.py`` is for what takes more than a key, ``hosts.py`` for
lists of hosts, and ``facts.py`` is what they all read.
"""
