"""``rdmatrain bench``: bandwidth and latency beside Gloo, MPI and the wire. See README.md here."""
