"""What a provider returned is compared with what the release pins, and a difference is audited."""

from __future__ import annotations

from penstock.domain.exchanges import Caller, Exchange
from penstock.gateway.records import Records
from penstock.store import audit


def answered(number, model, fingerprint):
    caller = Caller(
        task_id="task_0", session_id="ses_0", agent="support", environment="production",
        release="r" * 64, epoch=1, step=0,
    )  # fmt: skip
    return Exchange(
        id=f"exc_{number}", caller=caller, alias="main", request_digest="d" * 64, request={},
        response=None, status=200, outcome="ok", streamed=False, provider="openai",
        model="gpt-4o-2024-08-06", model_returned=model, fingerprint=fingerprint, attempts=(),
        replayed_from=None,
    )  # fmt: skip


async def test_another_model_and_another_configuration_are_each_noted_once(store):
    records = Records(store)
    answers = [
        ("gpt-4o-2024-08-06", "fp_1"),
        ("gpt-4o-2024-08-06", "fp_1"),
        ("gpt-4o-2024-11-20", "fp_1"),
        ("gpt-4o-2024-11-20", "fp_1"),
        ("gpt-4o-2024-08-06", "fp_2"),
    ]
    for number, (model, fingerprint) in enumerate(answers):
        await records.commit(answered(number, model, fingerprint), {})
    entries = await store.read(lambda tx: audit.listing(tx, object_kind="release"))
    said = [entry.detail["reason"] for entry in entries if entry.action == "model.drift"]
    assert len(said) == 2
    assert "gpt-4o-2024-11-20 answered" in said[0]
    assert "fp_2" in said[1]
