"""``rdmatrain doctor``: why this pod will, or will not, train over RDMA. See README.md here."""
