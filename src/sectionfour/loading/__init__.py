"""What was before: files, and the ledger, replayed."""
