"""Finds keys in a Parquet snapshot with DuckDB: a line of keys in, a line of "seconds rows" out, timed here with the connection warm."""

import sys
import time

import duckdb

connection = duckdb.connect()
connection.execute("SET parquet_metadata_cache = true")
snapshot = sys.argv[1].replace("'", "''")
connection.execute(f"SELECT count(*) FROM read_parquet('{snapshot}')").fetchall()
print("ready", flush=True)
for line in sys.stdin:
    keys = ", ".join("'" + key.replace("'", "''") + "'" for key in line.split())
    query = f"SELECT * FROM read_parquet('{snapshot}') WHERE user_id IN ({keys})"
    start = time.perf_counter()
    rows = connection.sql(query).to_arrow_table().num_rows
    print(time.perf_counter() - start, rows, flush=True)
