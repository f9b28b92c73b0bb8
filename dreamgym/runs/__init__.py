"""The run folder: stages and their records, the log, the ledger, reuse, copies in a second place."""
