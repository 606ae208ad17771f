"""One module for each family of questions to a manifest."""
