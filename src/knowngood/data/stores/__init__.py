"""Images that are no files of this machine: objects of a store, members of tar shards, rows of parquet files."""
