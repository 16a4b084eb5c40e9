"""A mid-size teacher, trained here and now, and the comparison from one start on it (README.md)."""
