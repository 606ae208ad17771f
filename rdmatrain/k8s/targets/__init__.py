"""A module for each scheduler, called as the target is, with ``_`` for ``-``.

Each has ``TARGET``, a :class:`~rdmatrain.k8s.targets.target.Target`. Besides them: what a name may
be (``names``), where pods are put (``placing``), what a queue's quota needs (``needs``), and what
JobSets and TrainJobs have in common (``jobset_parts``).
"""
