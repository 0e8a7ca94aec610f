"""Records of replicas cross between processes of two versions while a service is redeployed."""

import pickle

import pytest

from serve_app.tasks.replica import Health, Replica, Scale


@pytest.mark.parametrize(
    "record",
    [
        Replica("r1", "demo", "cuda", 2, 12.5, Health.SETUP_FAILED, "The model could not be loaded."),
        Scale("demo", 3, failing=True),
    ],
)
def test_a_record_pickled_by_a_process_of_the_version_before_is_read(record: object) -> None:
    # Protocol 2 spells a class by the name of its module, which that version called otherwise.
    sent = pickle.dumps(record, protocol=2).replace(b"serve_app.tasks.replica\n", b"serve_app.tasks.task\n")
    assert b"serve_app.tasks.task\n" in sent
    assert pickle.loads(sent) == record
