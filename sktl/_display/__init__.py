"""Numbers as plots and pages; reads results only."""
