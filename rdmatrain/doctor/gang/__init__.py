"""The pods of a job, looked at together. See README.md here."""
