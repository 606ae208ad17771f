"""One small description of a job, and the manifests that every scheduler wants of it."""
