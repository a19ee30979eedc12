"""What tests/flight.rs does with pyarrow as it comes: puts rows, gets features, exchanges, deletes, acts. Arguments: address, a built generation."""

import json
import sys
import time

import pyarrow as pa
import pyarrow.flight as flight

address, generation = sys.argv[1:]
client = flight.connect(f"grpc://{address}")


def as_tenant(tenant):
    return flight.FlightCallOptions(headers=[(b"x-larder-tenant", tenant.encode())])


demo, other = as_tenant("demo"), as_tenant("other")
path = flight.FlightDescriptor.for_path


def command(**what):
    return json.dumps(what).encode()


def put(descriptor, table, options=demo, batch_rows=None):
    """Puts a table and returns the last acknowledgement."""
    writer, acknowledgements = client.do_put(descriptor, table.schema, options)
    writer.write_table(table, batch_rows) if batch_rows else writer.write_table(table)
    writer.done_writing()
    last = None
    while (read := acknowledgements.read()) is not None:
        last = json.loads(read.to_pybytes())
    writer.close()
    return last


def get(entities, features, options=demo):
    ticket = flight.Ticket(command(features=features, entities=entities))
    return client.do_get(ticket, options).read_all().to_pydict()


def refused(says, call):
    try:
        call()
    except (flight.FlightError, pa.ArrowException, ValueError, KeyError) as error:
        assert says in str(error), f"{error!r} does not say {says!r}"
        return
    raise AssertionError(f"{says!r} was not refused")


def at(milliseconds):
    return pa.array(milliseconds, pa.timestamp("ms", "UTC"))


NOW = int(time.time() * 1000)
names = ["profile:name"]

# What there is to put into.
views = {info.descriptor.path[0]: info for info in client.list_flights(options=demo)}
assert set(views) == {b"profile", b"orders"}, views
assert views[b"profile"].total_records == 30, views[b"profile"].total_records
assert client.get_schema(path("orders"), demo).schema.names == ["user_id", "updated_at", "order_id", "status"]

# Rows: columns in any order and of related types, by name; dictionaries; columns nobody asked for.
profile = pa.table({
    "note": pa.array([1.5] * 4),
    "name": pa.array(["Ada", "Bob", "Ada", None]).dictionary_encode(),
    "updated_at": pa.array([NOW * 1000] * 4, pa.timestamp("us")),
    "user_id": pa.array(["user-0", "user-1", "new-0", "new-1"], pa.large_string()),
})
told = put(path("profile"), profile, batch_rows=1)
assert told == {"batches": 4, "rows": 4, "late": 0, "erased": 0}, told
told = put(path("profile"), profile.set_column(2, "updated_at", at([NOW - 1] * 4)))
assert told == {"batches": 1, "rows": 4, "late": 4, "erased": 0}, told
orders = pa.table({
    "user_id": ["user-0", "user-0"], "updated_at": at([NOW, NOW + 1]), "order_id": ["A", "B"], "status": ["delivered", "in_transit"],
})
assert put(path("orders"), orders)["rows"] == 2

# Features, in the order asked for, repeats and strangers included; a user of another tenant is another user.
found = get(["new-0", "nobody", "user-0", "new-0", "new-1"], names)
assert found["entity"] == ["new-0", "nobody", "user-0", "new-0", "new-1"], found
assert found["profile:name"] == ["Ada", None, "Ada", "Ada", None], found
assert found["profile::status"] == ["present", "not_found", "present", "present", "present"], found
assert found["profile::event_time"][1] is None and round(found["profile::event_time"][0].timestamp() * 1000) == NOW, found
assert get(["user-0"], names, other)["profile:name"] == ["NameO00-1"]
info = client.get_flight_info(flight.FlightDescriptor.for_command(command(service="answers", entities=["user-0"])), demo)
table = client.do_get(info.endpoints[0].ticket, demo).read_all()
assert table.schema.equals(info.schema), (table.schema, info.schema)
assert table["orders:order_id"].to_pylist()[0][:2] == ["B", "A"], table

# An exchange: batches of keys in, batches of features out.
descriptor = flight.FlightDescriptor.for_command(command(features=names, key="user"))
writer, reader = client.do_exchange(descriptor, demo)
with writer:
    keys = pa.schema([("user", pa.string()), ("asked", pa.int32())])
    writer.begin(keys)
    for number in range(20):
        batch = pa.record_batch([pa.array(["user-0", f"none-{number}", "new-0"]), pa.array([number] * 3, pa.int32())], keys)
        writer.write_batch(batch)
        answer = reader.read_chunk().data.to_pydict()
        assert answer["entity"] == ["user-0", f"none-{number}", "new-0"], answer
        assert answer["profile:name"] == ["Ada", None, "Ada"], answer
    writer.done_writing()

# Who does not read acknowledgements is not made to wait for ever.
writer, _ = client.do_put(path("profile"), profile.schema, demo)
for _ in range(3000):
    writer.write_table(profile.slice(2, 1))
writer.close()

# Deletions.
gone = pa.table({"user_id": ["new-0"], "updated_at": at([NOW + 5])})
assert put(path("profile", "deletions"), gone)["rows"] == 1
assert get(["new-0"], names)["profile::status"] == ["not_found"]
one = pa.table({"user_id": ["user-0"], "updated_at": at([NOW + 5]), "order_id": ["B"]})
assert put(path("orders", "deletions"), one)["rows"] == 1
assert get(["user-0"], ["orders:order_id"])["orders:order_id"][0][0] == "A"

# What an operator does.
actions = {action.type for action in client.list_actions(demo)}
assert actions == {"publish", "warm", "compact"}, actions


def act(kind, body=b""):
    (result,) = client.do_action(flight.Action(kind, body), demo)
    return json.loads(result.body.to_pybytes())


warmed = act("warm", command(service="answers", entities=["user-3", "stranger"]))
assert warmed == {"entities": 2, "found": 1}, warmed
published = act("publish", command(path=generation))
assert (published["view"], published["live_generation"]) == ("profile", 2), published
assert get(["user-4"], names)["profile:name"] == ["NameD04-2"]
assert set(act("compact")) == {"rows", "live", "files"}

# What is wrong is told, and by whom it may be put right.
refused("column name (utf8) of view profile is missing", lambda: put(path("profile"), profile.drop_columns(["name"])))
refused('view "basket" is not declared', lambda: put(path("basket"), profile))
refused("column name is Int64", lambda: put(path("profile"), profile.set_column(1, "name", pa.array([1, 2, 3, 4]))))
refused("row 1 is null", lambda: put(path("profile"), profile.set_column(3, "user_id", pa.array(["a", None, "b", "c"]))))
long = pa.table({"user_id": ["x"] * 20_000, "updated_at": at([NOW] * 20_000), "name": ["y"] * 20_000})
refused("20000 rows; a batch has at most 16384", lambda: put(path("profile"), long))
assert put(path("profile"), long, batch_rows=10_000)["batches"] == 2
refused('tenant "nobody" is not served', lambda: put(path("profile"), profile, as_tenant("nobody")))
refused("is not declared", lambda: client.do_get(flight.Ticket(command(service="nothing", entities=["a"])), demo).read_all())
refused("the command cannot be read", lambda: client.do_get(flight.Ticket(b"\xff"), demo).read_all())
refused("there is no action", lambda: list(client.do_action(flight.Action("drop", b""), demo)))
options = flight.FlightCallOptions(
    headers=[(b"x-larder-tenant", b"demo")], write_options=pa.ipc.IpcWriteOptions(compression="lz4")
)
refused("compressed batches are not taken", lambda: put(path("profile"), long.slice(0, 10_000), options))
print("pyarrow", pa.__version__, "is well")
