"""Who hangs, who is dead, and what they said last.

``page`` is what a worker tells of itself; in the worker, ``beat`` writes it and ``last_words``
writes where it stands and what it died of. In the launcher, ``activity`` asks the kernel,
``watcher`` puts both together, and ``hang`` judges.
"""
