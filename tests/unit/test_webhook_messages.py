"""Webhook messages: signatures, secrets, and the schedule of attempts."""

from email.utils import formatdate

import pytest

from serve_app.config.webhook_secret import secret_bytes
from serve_app.tasks.webhook import Delivery, DeliveryState, EventType
from serve_app.webhooks.message import headers_of
from serve_app.webhooks.schedule import DELAYS_S, Answer, outcome, retry_after_s

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = 1_614_265_330.0


def message(id_: str) -> Delivery:
    return Delivery(id_, "u", "", "https://x", "e", EventType.FAILED, 1.0, DeliveryState.PENDING, 0, 1.0)


def test_a_message_is_signed_as_in_the_published_example() -> None:
    """The example of Standard Webhooks' own libraries."""
    headers = headers_of(
        message("msg_p5jXN8AQM9LWM0D4loKWxJek"), b'{"test": 2432232314}', [secret_bytes(SECRET)], at=NOW + 0.9
    )
    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_QUJD", "whsec_&&&&" * 9])
def test_a_secret_of_another_form_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="must be") as refused:
        secret_bytes(secret)
    assert not secret or secret not in str(refused.value)


@pytest.mark.parametrize("attempts", range(len(DELAYS_S)))
def test_a_failed_attempt_is_followed_by_the_next_of_the_schedule(attempts: int) -> None:
    for jitter in (0.0, 0.2):
        after = outcome(Answer(500, "500."), attempts=attempts, at=NOW, jitter=jitter)
        assert after.state is DeliveryState.PENDING and after.rests_until is None
        assert after.next_at == pytest.approx(NOW + DELAYS_S[attempts] * (1 + jitter))


def test_the_schedule_ends() -> None:
    after = outcome(Answer(None, "No answer."), attempts=len(DELAYS_S), at=NOW, jitter=0.0)
    assert (after.state, after.next_at) == (DeliveryState.FAILED, None)


@pytest.mark.parametrize("code", [429, 502, 504])
def test_a_receiver_under_strain_gets_a_rest(code: int) -> None:
    after = outcome(Answer(code, "Busy."), attempts=0, at=NOW, jitter=0.0)
    assert after.rests_until == NOW + 30


def test_a_wait_that_the_receiver_asks_for_is_kept() -> None:
    after = outcome(Answer(503, "Busy.", retry_after_s=900.0), attempts=0, at=NOW, jitter=0.2)
    assert (after.next_at, after.rests_until) == (NOW + 900, NOW + 900)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        (formatdate(NOW + 60, usegmt=True), 60.0),
        (formatdate(NOW - 60, usegmt=True), 0.0),
        ("999999999999", 86_400.0),
        ("soon", None),
        ("-5", None),
        ("Wed, 99 Foo 2020", None),
    ],
)
def test_retry_after_is_read_as_seconds_and_as_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, NOW) == seconds
