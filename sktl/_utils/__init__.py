"""What several rooms share: files written whole, fit tasks."""
