"""A service whose database and bucket are both away for longer than its leases: nothing is lost by it."""

import time
from pathlib import Path

import pytest
from sqlalchemy import make_url

from testbed.cluster import Cluster, paced
from testbed.postgres_server import PostgresServer
from testbed.s3_server import S3Server
from testbed.service import HTTP, wait_for
from testbed.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.postgres, pytest.mark.s3]

LEASE_S = 6.0
# A run whose lease ended would have no second attempt: it would fail.
RULES = {"lease_s": LEASE_S, "heartbeat_s": 0.5, "max_attempts": 1}
SMALL = {"width": 64, "height": 64, "num_frames": 5, "infer_steps": 2}
DEADLINE_S = 120


@pytest.mark.timeout(400)
def test_tasks_outlast_a_database_and_a_bucket_that_are_away_for_longer_than_a_lease(
    cluster: Cluster, postgres: PostgresServer, s3_server: S3Server, tmp_path: Path
) -> None:
    where = s3_server.new_bucket()
    with TcpProxy(postgres.socket) as database, TcpProxy(("127.0.0.1", s3_server.port)) as bucket:
        where["s3"] |= {"endpoint_url": f"http://127.0.0.1:{bucket.port}"}
        url = make_url(postgres.new_database()).set(host="127.0.0.1", port=database.port, query={})
        model = paced(0.05, cpus_per_replica=0.1, options={"step_s": 0.05, "releases": str(tmp_path)})
        address = url.render_as_string(hide_password=False)
        with cluster.deploy(database_url=address, models=[model], tasks=RULES, **where) as service:
            runs = service.submit(prompt="[[hold:long]]", **SMALL)
            service.until(runs, "running")
            waits = service.submit(**SMALL)

            database.cut()
            bucket.cut()
            ends_at = time.monotonic() + 2 * LEASE_S
            refused = HTTP.post(f"{service.url}/v1/tasks/video", json={"prompt": "a cat", **SMALL})
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            (tmp_path / "long").touch()  # the run ends, and has nowhere to put its video
            wait_for(lambda: bucket.refused > 0, DEADLINE_S, lambda: "the run did not end")
            wait_for(lambda: time.monotonic() > ends_at, DEADLINE_S, lambda: "no time passes")
            database.mend()
            bucket.mend()

            for task_id in (runs, waits):
                assert service.until(task_id, "succeed", deadline_s=DEADLINE_S)["attempt"] == 1
                assert service.result(task_id)
            again = service.submit(**SMALL)
            assert service.until(again, "succeed", deadline_s=DEADLINE_S)["attempt"] == 1
