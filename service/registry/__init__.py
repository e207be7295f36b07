"""The memory: rows in a database and blobs in a store."""
