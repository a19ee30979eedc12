"""Writes one and the same history of orders as other programs would: a Parquet file of each, with the types and encodings that are its own."""

import datetime
import pathlib
import random
import sys

USERS = 500
BASE = datetime.datetime(2026, 11, 1, tzinfo=datetime.timezone.utc)


def rows():
    """User, time, order, quantity, total, paid: tests/foreign_writers.rs knows the same rules."""
    for user in range(USERS):
        for nth in range(user % 5):
            placed_at = BASE + datetime.timedelta(seconds=user, minutes=nth)
            paid = None if user % 11 == 0 else nth % 2 == 0
            yield f"user-{user}", placed_at, f"order-{user}-{nth}", user + nth, (7 * user + nth) / 4, paid


def columns():
    """The rows in no order, by column."""
    shuffled = list(rows())
    random.Random(17).shuffle(shuffled)
    names = ["user_id", "placed_at", "order_id", "quantity", "total", "paid"]
    return dict(zip(names, map(list, zip(*shuffled))))


def arrow(text, time):
    import pyarrow as pa

    types = {"user_id": text, "placed_at": time, "order_id": text, "quantity": pa.int32(), "total": pa.float64(), "paid": pa.bool_()}
    return pa.table({name: pa.array(values, types[name]) for name, values in columns().items()})


def write_pyarrow(file):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(arrow(pa.string(), pa.timestamp("ms", "UTC")), file)


def write_pyarrow_unusual(file):
    """Dictionaries, long strings, nanoseconds of another zone, pages of version 2, small row groups, columns in another order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = arrow(pa.large_string(), pa.timestamp("ns", "Asia/Shanghai"))
    for name in ("user_id", "order_id"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].dictionary_encode())
    table = table.select(sorted(table.column_names, reverse=True)).append_column("comment", pa.array(["nobody reads this"] * len(table)))
    pq.write_table(table, file, compression="zstd", data_page_version="2.0", row_group_size=97)


def write_pandas(file):
    import pandas as pd

    frame = pd.DataFrame(columns()).astype({"quantity": "int32", "paid": "boolean"})
    frame.to_parquet(file, compression="brotli")


def write_polars(file):
    import polars as pl

    frame = pl.DataFrame(columns(), schema_overrides={"quantity": pl.Int32})
    frame.write_parquet(file, compression="lz4", row_group_size=200)


def write_duckdb(file):
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'America/New_York'")
    connection.execute(
        "CREATE TABLE orders (user_id VARCHAR, placed_at TIMESTAMPTZ, order_id VARCHAR, quantity INTEGER, total DOUBLE, paid BOOLEAN)"
    )
    connection.executemany("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?)", list(zip(*columns().values())))
    connection.execute(f"COPY orders TO '{file}' (FORMAT parquet, CODEC 'gzip', ROW_GROUP_SIZE 2048)")


def write_spark(file):
    from pyspark.sql import SparkSession
    from pyspark.sql import types as t

    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    types = [t.StringType(), t.TimestampType(), t.StringType(), t.IntegerType(), t.DoubleType(), t.BooleanType()]
    schema = t.StructType([t.StructField(name, kind) for name, kind in zip(columns(), types)])
    # INT96 timestamps are what Spark writes unless it is told otherwise.
    spark.createDataFrame(list(zip(*columns().values())), schema).repartition(3).write.parquet(str(file))
    spark.stop()


if __name__ == "__main__":
    for writer in sys.argv[1:]:
        globals()[f"write_{writer}"](pathlib.Path.cwd() / f"{writer}.parquet")
