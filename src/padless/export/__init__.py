"""The way in and out: Hugging Face folders, checked in both directions."""
