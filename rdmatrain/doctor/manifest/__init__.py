"""``rdmatrain doctor -f``: what a manifest shows before anything runs. See README.md here."""
