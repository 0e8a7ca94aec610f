"""The limits of a key in the configuration hold at the replicas."""

import hashlib
from typing import Any

from testbed.cluster import Cluster, paced
from testbed.service import HTTP, Service, wait_for

SMALL = {"width": 64, "height": 64, "num_frames": 5}


def key(name: str, **rules: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **rules}


class Holder:
    """A client with an API key."""

    def __init__(self, service: Service, name: str) -> None:
        self._url = f"{service.url}/v1/tasks"
        self._headers = {"X-API-Key": name}

    def submit(self, task_id: str, *, steps: int) -> None:
        body = {"prompt": "a cat", "task_id": task_id, "infer_steps": steps, **SMALL}
        answer = HTTP.post(f"{self._url}/video", json=body, headers=self._headers)
        assert answer.status_code == 200, answer.text

    def status(self, task_id: str) -> dict[str, Any]:
        answer = HTTP.get(f"{self._url}/{task_id}/status", headers=self._headers)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def until(self, task_id: str, status: str) -> None:
        wait_for(lambda: self.status(task_id)["status"] == status, 120, lambda: str(self.status(task_id)))

    def cancel(self, task_id: str) -> None:
        HTTP.delete(f"{self._url}/{task_id}", headers=self._headers).raise_for_status()


def test_a_key_at_its_limit_waits_beside_a_free_replica_and_goes_on_after_it(cluster: Cluster):
    keys = [key("alice", max_running=1), key("bob")]
    model = paced(0.5, replicas=2, cpus_per_replica=0.5)
    with cluster.deploy(models=[model], keys=keys) as service:
        assert HTTP.get(f"{service.url}/v1/tasks").status_code == 401
        alice, bob = Holder(service, "alice"), Holder(service, "bob")
        alice.submit("long", steps=200)
        alice.until("long", "running")
        alice.submit("held", steps=1)
        bob.submit("his", steps=1)
        bob.until("his", "succeed")
        assert alice.status("held")["status"] == "submitted"
        assert alice.status("long")["status"] == "running"
        alice.cancel("long")
        alice.until("held", "succeed")
