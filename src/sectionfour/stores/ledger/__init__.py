"""The rooms of the ledger on SQLite: each has its tables, and the methods that touch them."""
