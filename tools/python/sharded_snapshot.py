#!/usr/bin/env python3
"""A Spark job that makes a sharded snapshot of orders: the way for data that outgrows one machine.

Joins orders with what is known of their customers, divides the rows by the shard of their entity key, sorts each shard by key and time, and
writes a folder for each: OUT/shard=0, OUT/shard=1, ... `larder ingest build` takes one of them as it is, and does not have to sort it again:

    spark-submit sharded_snapshot.py --orders orders/ --customers customers/ --shards 4 --out snapshot/
    larder ingest build --config larder.toml --tenant demo --view orders --shard 0/4 --out built/orders-0 snapshot/shard=0/

A shard is the CRC-32 of the key's UTF-8 bytes modulo the number of shards, as docs/sharding.md says; Spark has it built in. This job is for
orders of TPC-H, a public schema. To make it yours change the columns in `rows`; the rest stays.
"""

import argparse

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

# Within a shard each of these many files is sorted by itself; with one, the whole shard is.
FILES_PER_SHARD = 1


def rows(orders: DataFrame, customers: DataFrame) -> DataFrame:
    """The view's rows: its entity key as text, its event time, its element key and its features, by their names."""
    joined = orders.join(customers, orders.o_custkey == customers.c_custkey, "inner")
    return joined.select(
        f.format_string("customer-%d", "o_custkey").alias("user_id"),
        f.to_timestamp("o_orderdate").alias("placed_at"),
        f.col("o_orderkey").cast("string").alias("order_id"),
        f.col("o_totalprice").cast("double").alias("total"),
        f.col("o_orderstatus").alias("status"),
        f.col("c_mktsegment").alias("segment"),
    )


def write_sharded(rows: DataFrame, key: str, time: str, shards: int, out: str) -> None:
    """Writes rows into a folder for each shard of their key, sorted as `larder ingest build` likes them best."""
    sharded = rows.withColumn("shard", (f.crc32(f.col(key)) % shards).cast("int"))
    # A range over shards and keys in one: each file has neighbouring keys of one shard.
    placed = sharded.repartitionByRange(shards * FILES_PER_SHARD, "shard", key)
    placed.sortWithinPartitions("shard", key, time).write.partitionBy("shard").parquet(out)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--orders", required=True, help="Parquet of the orders, wherever Spark reads")
    arguments.add_argument("--customers", required=True, help="Parquet of the customers")
    arguments.add_argument("--shards", type=int, required=True, help="number of shards, 1 to 4096")
    arguments.add_argument("--out", required=True, help="folder to make; it must not exist")
    given = arguments.parse_args()
    if not 1 <= given.shards <= 4096:
        arguments.error("--shards must be 1 to 4096")

    spark = SparkSession.builder.appName("larder snapshot").getOrCreate()
    # Times are written as UTC, whatever the machine's zone is.
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    orders, customers = spark.read.parquet(given.orders), spark.read.parquet(given.customers)
    write_sharded(rows(orders, customers), "user_id", "placed_at", given.shards, given.out)
    spark.stop()


if __name__ == "__main__":
    main()
