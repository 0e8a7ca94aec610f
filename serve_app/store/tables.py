"""The tables of the task store. ``migrations/`` creates them; a test compares the two."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

METADATA = MetaData()

# SQLite autoincrements only columns of type INTEGER; PostgreSQL's INTEGER would end at 2³¹.
_SEQ = BigInteger().with_variant(Integer, "sqlite")

TASKS = Table(
    "tasks",
    METADATA,
    Column("seq", _SEQ, primary_key=True, autoincrement=True),
    Column("uid", String(64), nullable=False, unique=True),
    Column("id", String(128), nullable=False),
    Column("status", String(16), nullable=False),
    Column("model", String(64), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("work", Float, nullable=False),
    Column("tokens", Integer, nullable=False, server_default="0"),
    Column("priority", Integer, nullable=False),
    # Before the seq in the order of one priority: below 0 for a task that was put first.
    Column("place", BigInteger, nullable=False, server_default="0"),
    Column("owner", String(128), nullable=False),
    Column("notes", JSON, nullable=False),
    Column("request", JSON, nullable=False),
    Column("save_path", Text, nullable=False),
    Column("idempotency_key", String(255)),
    Column("digest", String(64), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("attempts_left", Integer, nullable=False),
    Column("runner", String(255)),
    Column("step", Integer, nullable=False),
    Column("progress", Float, nullable=False),
    # Of the current attempt, as its runner told it last.
    Column("phase", String(32), nullable=False, server_default=""),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("lease_expires_at", Float),
    Column("artifact", Text),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("timings", JSON, nullable=False),
    # Counts the moves of the task.
    Column("version", Integer, nullable=False, server_default="0"),
    # Null for a task without a deadline, and for one that has begun or ended.
    Column("expires_at", Float),
    # Of the current run: whether a client is content with what there is of it.
    Column("finish_early", Boolean, nullable=False, server_default=false()),
    # Until when previews of the current run are wanted.
    Column("previews_until", Float),
    Column("enhance_prompt", Boolean, nullable=False, server_default=false()),
    # What a run takes for the prompt: null before it was asked for, empty where none came of that.
    Column("revised_prompt", Text),
    # Seconds until its end that the client was told at the submit; null where they were unknown.
    Column("told_s", Float),
    # The span of the submit, of which those of each attempt are children; null where nothing is traced.
    Column("traceparent", String(64)),
    # Of a video that has not as many as its spec.
    Column("frames", Integer),
    Column("callback_url", Text),
    # The types of the wanted events, with blanks between.
    Column("callback_events", Text),
    # Of the service that has claimed it last.
    Column("generation", BigInteger),
    # A presigned URL: a secret.
    Column("upload_url", Text),
    UniqueConstraint("id", "owner", name="tasks_id"),
    UniqueConstraint("owner", "idempotency_key", name="tasks_idempotency"),
    Index("tasks_queue", "status", "model", "owner", "priority", "place", "seq"),
    Index("tasks_expires", "expires_at"),
    Index("tasks_owner", "owner", "seq"),
    Index("tasks_save_path", "save_path", "seq"),
    Index("tasks_finished", "finished_at"),
    sqlite_autoincrement=True,
)

SERVICES = Table(
    "services",
    METADATA,
    # The later a service was started, the higher. A row stays for good, so none comes again.
    Column("generation", _SEQ, primary_key=True, autoincrement=True),
    Column("name", String(255), nullable=False, unique=True),
    # Of its coordinator: counts the coordinators of all services.
    Column("epoch", BigInteger, nullable=False, unique=True),
    Column("seen_at", Float, nullable=False),
    # True once its models have been loaded.
    Column("ready", Boolean, nullable=False),
    # True while it is to stop; where that one leads, there is no other, and no task is stored.
    Column("draining", Boolean, nullable=False),
    # True for one of them.
    Column("leads", Boolean, nullable=False),
    sqlite_autoincrement=True,
)

COMPATIBILITY = Table(
    "compatibility",
    METADATA,
    Column("id", Integer, primary_key=True),
    # The oldest program that can use this schema, by the newest migration that it knows.
    Column("oldest_program", String(16), nullable=False),
)

# Of programs before 0013, which may go on beside newer ones; nothing else uses it.
Table(
    "leadership",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("draining", Boolean, nullable=False, server_default=false()),
)

PAUSES = Table(
    "pauses",
    METADATA,
    # One of the two is empty: a pause is of a model or of an owner. The owner of a service without keys is.
    Column("model", String(64), primary_key=True),
    Column("owner", String(128), primary_key=True),
)

SHARES = Table(
    "shares",
    METADATA,
    Column("model", String(64), primary_key=True),
    Column("owner", String(128), primary_key=True),
    Column("virtual_time", Float, nullable=False),
    # The model's own virtual time at this write: the largest is the latest.
    Column("clock", Float, nullable=False),
)

RATES = Table(
    "rates",
    METADATA,
    Column("model", String(64), primary_key=True),
    Column("seconds_per_work", Float, nullable=False),
    Column("samples", Integer, nullable=False),
)

SHAPE_RATES = Table(
    "shape_rates",
    METADATA,
    Column("model", String(64), primary_key=True),
    Column("tokens", Integer, primary_key=True, autoincrement=False),
    Column("seconds_per_work", Float, nullable=False),
    Column("samples", Integer, nullable=False),
)

REPLICAS = Table(
    "replicas",
    METADATA,
    Column("replica_id", String(255), primary_key=True),
    Column("model", String(64), nullable=False),
    Column("device", String(128), nullable=False),
    Column("ranks", Integer, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("health", String(16), nullable=False, server_default="READY"),
    Column("reason", Text, nullable=False, server_default=""),
)

SERVED_MODELS = Table(
    "served_models",
    METADATA,
    Column("model", String(64), primary_key=True),
    # When a service had it in its configuration last, or its tasks were first seen to wait for nobody.
    Column("seen_at", Float, nullable=False),
)

SCALES = Table(
    "scales",
    METADATA,
    Column("model", String(64), primary_key=True),
    Column("wanted", Integer, nullable=False),
    Column("failing", Boolean, nullable=False),
)

WEBHOOKS = Table(
    "webhooks",
    METADATA,
    Column("id", String(128), primary_key=True),
    Column("task_uid", String(64), nullable=False),
    Column("owner", String(128), nullable=False),
    Column("url", Text, nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("type", String(32), nullable=False),
    Column("occurred_at", Float, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    # Null once no attempt is to come.
    Column("next_at", Float),
    Column("last_at", Float),
    Column("last_code", Integer),
    Column("last_fault", Text),
    Index("webhooks_due", "next_at"),
    Index("webhooks_task", "task_uid"),
    Index("webhooks_endpoint", "endpoint"),
)

UPLOADS = Table(
    "uploads",
    METADATA,
    # Of a task whose video is there; its upload_url says where to.
    Column("task_uid", String(64), primary_key=True),
    Column("endpoint", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    # Null once no attempt is to come.
    Column("next_at", Float),
    Column("last_at", Float),
    Column("last_code", Integer),
    Column("last_fault", Text),
    Index("uploads_due", "next_at"),
    Index("uploads_endpoint", "endpoint"),
)

WEBHOOK_ENDPOINTS = Table(
    "webhook_endpoints",
    METADATA,
    # Only receivers of messages, and storages of uploads, that have refused something have a row.
    Column("endpoint", String(64), primary_key=True),
    Column("disabled", Boolean, nullable=False),
    # Nothing is sent there before; 0 where it is not asked to slow down.
    Column("rests_until", Float, nullable=False),
)
