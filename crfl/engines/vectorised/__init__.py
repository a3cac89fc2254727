"""The vectorised engine: many clients and runs step together. Everything here exists for speed."""
