"""One module for each family of checks: pure functions from a case to a finding."""
