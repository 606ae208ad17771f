"""What a job has done, for Prometheus: counted in each rank, served beside its launcher."""
