"""Shows what discovery found: text, JSON and a drawing, and who this process is."""
