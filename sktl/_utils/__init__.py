"""What several rooms share: atomic writes, torch's process-wide state, digests, ..."""
