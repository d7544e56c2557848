from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from penstock.drivers.providers import AnswerCut, ProviderRequest, read_all
from penstock.drivers.providers.simulated import Faults, Latency, SimulatedProvider, complete
from penstock.drivers.providers.simulated.competence import competence, read
from penstock.rules.wires import openai as wire
from penstock.rules.wires import openai_forms

TEXT = {"type": "string"}
SESSIONS = 300

GOOD = [
    "Always look things up with the tools before you answer. Never guess. If nothing is found, say so.",
    """You are a support agent.

    # Rules
    1. Check the records with the tools you have, first.
    2. Do not invent, assume or make up details.
    3. When something cannot be found, tell the user and ask for more.

    Quote the facts exactly.""",
    """Rather than relying on your memory, verify every detail with the functions.
    Do not answer before you have checked. If a search returns nothing, admit it.""",
]
BAD = [
    "Answer from memory without using the tools. If unsure, guess.",
    "There is no need to call any function: they are slow. Just make up something plausible.",
    "Trust your intuition and general knowledge. Skip the lookups and estimate what you do not know.",
]
NEUTRAL = "You are a friendly assistant who helps the people of our company every single day."


def tool(name: str, description: str, properties: dict[str, Any], *required: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


ORDERS = [
    tool(
        "lookup_order",
        "Look up one order: status, carrier, delivery date.",
        {"order_id": TEXT},
        "order_id",
    ),
    tool(
        "find_orders",
        "List a customer's orders by e-mail.",
        {"email": {"type": "string", "format": "email"}},
        "email",
    ),
    tool(
        "refund_order",
        "Refund an order that arrived damaged.",
        {"order_id": TEXT, "reason": TEXT},
        "order_id",
        "reason",
    ),
]
WEATHER = [
    tool(
        "get_forecast",
        "Weather forecast for a city.",
        {
            "city": TEXT,
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer", "minimum": 1},
        },
        "city",
    ),
    tool("list_alerts", "Severe weather alerts of a region.", {"region": TEXT}, "region"),
]
LEAVE = [
    tool("search_policy", "Search the HR policy handbook by topic.", {"query": TEXT}, "query"),
    tool(
        "leave_balance",
        "How many vacation days an employee has left.",
        {"employee_id": {"type": "string", "pattern": r"^E-\d{4}$"}},
        "employee_id",
    ),
]


def answer(name: str, arguments: dict[str, Any]) -> Any:
    if name == "lookup_order":
        number = int(arguments["order_id"])
        return {
            "order_id": number,
            "status": ["delivered", "lost", "returned"][number % 3],
            "eta": f"2031-01-{number % 28 + 1:02}",
        }
    if name == "get_forecast":
        return {"city": arguments["city"], "temperature": 60 + len(arguments["city"])}
    if name == "leave_balance":
        return {"days_left": 70 + int(arguments["employee_id"][2:]) % 29}
    return {"error": "not available"}


def truth(domain: str, number: int) -> str:
    if domain == "orders":
        return ["delivered", "lost", "returned"][number % 3]
    return str(60 + len("Oslo")) if domain == "weather" else str(70 + number % 29)


DOMAINS = {
    "orders": (ORDERS, "Where is order {0}?"),
    "weather": (WEATHER, "How warm is it in Oslo today? My ticket is {0}."),
    "leave": (LEAVE, "I am E-{0}. How many vacation days do I have left?"),
}


def call(messages: list[Any], tools: list[Any], seed: str = "1", **more: Any) -> dict[str, Any]:
    request = {"model": "m", "messages": messages, **({"tools": tools} if tools else {}), **more}
    digest = wire.parse_request(json.dumps(request).encode()).digest
    message: dict[str, Any] = complete(request, seed=seed, digest=digest)["choices"][0]["message"]
    return message


def converse(system: str, tools: list[Any], question: str, seed: str = "1") -> str:
    messages: list[Any] = [
        {"role": "system", "content": system},
        {"role": "user", "content": question},
    ]
    for _ in range(6):
        message = call(messages, tools, seed)
        messages.append(message)
        if not message.get("tool_calls"):
            return str(message["content"])
        for asked in message["tool_calls"]:
            result = answer(asked["function"]["name"], json.loads(asked["function"]["arguments"]))
            messages.append(
                {"role": "tool", "tool_call_id": asked["id"], "content": json.dumps(result)}
            )
    pytest.fail("the model never answered")


def success(system: str, domain: str) -> float:
    tools, question = DOMAINS[domain]
    right = sum(
        truth(domain, number) in converse(system, tools, question.format(number))
        for number in range(1_000, 1_000 + SESSIONS)
    )
    return right / SESSIONS


def calls_of(
    question: str, tools: list[Any], *, earlier: tuple[Any, ...] = ()
) -> list[tuple[str, Any]]:
    system = {"role": "system", "content": GOOD[1]}
    # A few seeds: one of them may be the one that makes the mistake.
    for seed in "123":
        message = call([system, *earlier, {"role": "user", "content": question}], tools, seed)
        found = [
            (c["function"]["name"], json.loads(c["function"]["arguments"]))
            for c in message.get("tool_calls") or ()
        ]
        if found:
            return found
    return []


# ---------------------------------------------------------------- better prompts are better


@pytest.mark.parametrize("domain", DOMAINS)
def test_better_instructions_give_more_right_answers_in_any_trade(domain: str) -> None:
    good = [success(prompt, domain) for prompt in GOOD]
    bad = [success(prompt, domain) for prompt in BAD]
    neutral = success(NEUTRAL, domain)
    assert min(good) > 0.87
    assert max(bad) < 0.75
    assert max(bad) < neutral + 0.03
    assert neutral < min(good)


def test_every_good_prompt_promises_more_than_every_bad_one() -> None:
    assert min(map(competence, GOOD)) > competence(NEUTRAL) > max(map(competence, BAD))


@pytest.mark.parametrize(
    ("text", "quality"),
    [
        ("Never answer without checking the records.", "grounded"),
        ("Do not reply before you have verified it.", "grounded"),
        ("Answer without checking.", "ungrounded"),
        ("Avoid the tools.", "ungrounded"),
        ("Never guess, assume, or invent.", "guess_forbidden"),
        ("Instead of guessing, ask.", "guess_forbidden"),
        ("If in doubt, take a guess.", "guess_wanted"),
        ("Use what you already know.", "guess_wanted"),
        ("If you cannot find it, say so.", "unknown_handled"),
    ],
)
def test_instructions_are_read_with_their_negations(text: str, quality: str) -> None:
    found = read(text)
    assert getattr(found, quality) > 0
    opposite = {
        "grounded": "ungrounded",
        "ungrounded": "grounded",
        "guess_forbidden": "guess_wanted",
        "guess_wanted": "guess_forbidden",
    }
    if quality in opposite:
        assert getattr(found, opposite[quality]) == 0


def test_labels_and_names_play_no_part() -> None:
    prompt = GOOD[0]
    assert competence(f"Version v9-bad-candidate. {prompt}") == pytest.approx(
        competence(prompt), abs=0.02
    )


def test_a_harmful_sentence_lowers_and_a_helpful_one_raises() -> None:
    assert competence(GOOD[0] + " " + BAD[0]) < competence(GOOD[0])
    assert competence(NEUTRAL + " Never guess.") > competence(NEUTRAL)
    assert competence("") < competence(NEUTRAL)


# ---------------------------------------------------------------- tools and their arguments


@pytest.mark.parametrize(
    ("question", "tools", "expected"),
    [
        ("Where is order 1042?", ORDERS, [("lookup_order", {"order_id": "1042"})]),
        (
            "Please check orders 1042, 1043 and 1044: when do they arrive?",
            ORDERS,
            [("lookup_order", {"order_id": n}) for n in ("1042", "1043", "1044")],
        ),
        (
            "Which orders belong to ann@example.com?",
            ORDERS,
            [("find_orders", {"email": "ann@example.com"})],
        ),
        (
            "What is the weather in Oslo and in New York?",
            WEATHER,
            [("get_forecast", {"city": "Oslo"}), ("get_forecast", {"city": "New York"})],
        ),
        (
            "Give me the forecast for Rome in fahrenheit for 3 days",
            WEATHER,
            [("get_forecast", {"city": "Rome", "unit": "fahrenheit", "days": 3})],
        ),
        (
            "How many vacation days does E-4431 have left?",
            LEAVE,
            [("leave_balance", {"employee_id": "E-4431"})],
        ),
    ],
)
def test_tools_and_arguments_follow_from_the_question(
    question: str, tools: list[Any], expected: list[Any]
) -> None:
    assert calls_of(question, tools) == expected


def test_a_refund_is_made_only_when_it_is_asked_for() -> None:
    [(name, arguments)] = calls_of("Order 1042 came damaged, I want a refund.", ORDERS)
    assert (name, arguments["order_id"]) == ("refund_order", "1042")


def test_an_argument_may_have_been_given_earlier() -> None:
    earlier = (
        {"role": "user", "content": "Hello, this is about order 1042."},
        {"role": "assistant", "content": "How can I help?"},
    )
    assert calls_of("When does my order arrive?", ORDERS, earlier=earlier) == [
        ("lookup_order", {"order_id": "1042"})
    ]


def test_what_is_missing_is_asked_for() -> None:
    message = call(
        [{"role": "system", "content": GOOD[0]}, {"role": "user", "content": "Where is my order?"}],
        ORDERS,
    )
    assert "order id" in message["content"]


def test_one_call_at_a_time_if_the_request_says_so() -> None:
    messages = [
        {"role": "user", "content": "Always use the tools. Where are orders 1042 and 1043?"}
    ]
    message = call(messages, ORDERS, parallel_tool_calls=False, tool_choice="required")
    assert len(message["tool_calls"]) == 1


def test_a_forced_tool_is_called_and_a_forbidden_one_is_not() -> None:
    messages = [{"role": "user", "content": "Where is order 1042?"}]
    forced = {"type": "function", "function": {"name": "refund_order"}}
    [asked] = call(messages, ORDERS, tool_choice=forced)["tool_calls"]
    assert asked["function"]["name"] == "refund_order"
    assert not call(messages, ORDERS, tool_choice="none").get("tool_calls")


def test_json_answers_conform_to_their_schema() -> None:
    schema = {
        "type": "object",
        "properties": {
            "sentiment": {"type": "string", "enum": ["positive", "negative"]},
            "order_id": {"type": "string"},
            "urgent": {"type": "boolean"},
        },
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    messages = [{"role": "user", "content": "This is positive news about order 1042"}]
    value = json.loads(call(messages, [], response_format=form)["content"])
    assert set(value) == {"sentiment", "order_id", "urgent"}
    assert value["sentiment"] in {"positive", "negative"}
    assert isinstance(
        json.loads(call(messages, [], response_format={"type": "json_object"})["content"]), dict
    )


def test_a_label_is_chosen_when_the_task_is_to_classify() -> None:
    system = "Classify the message. Answer with one of: billing, shipping, other. Do not guess."
    answers = [
        call(
            [
                {"role": "system", "content": system},
                {"role": "user", "content": f"Where is my delivery {n}?"},
            ],
            [],
        )["content"]
        for n in range(50)
    ]
    assert set(answers) <= {"billing", "shipping", "other"}
    assert answers.count("shipping") > 40


# ---------------------------------------------------------------- the provider


def body(question: str = "Where is order 1042?", **more: Any) -> bytes:
    return json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": question}], **more}
    ).encode()


async def test_equal_requests_are_answered_equally_and_say_that_they_are_simulated() -> None:
    fast = Latency(first_token=0, per_token=0)
    answers = []
    for provider in (
        SimulatedProvider(seed=7, latency=fast),
        SimulatedProvider(seed=7, latency=fast),
    ):
        answer = await provider.call(ProviderRequest(body=body(), stream=False))
        assert answer.status == 200
        assert answer.headers["x-penstock-simulated"] == "true"
        answers.append(await read_all(answer, limit=10**6))
    assert answers[0] == answers[1]
    value = json.loads(answers[0])
    assert value["system_fingerprint"].startswith("simulated-")
    assert value["usage"]["completion_tokens"] > 0


async def test_a_stream_says_the_same_as_the_json_answer() -> None:
    provider = SimulatedProvider(latency=Latency(first_token=0, per_token=0.0001))
    for more in ({}, {"tools": ORDERS}):
        whole = await provider.call(ProviderRequest(body=body(**more), stream=False))
        stream = await provider.call(ProviderRequest(body=body(stream=True, **more), stream=True))
        one = json.loads(await read_all(whole, limit=10**6))["choices"][0]["message"]
        other = json.loads(openai_forms.assemble(await read_all(stream, limit=10**6)))["choices"][
            0
        ]["message"]
        assert other.get("tool_calls") == one.get("tool_calls")
        assert (other["content"] or None) == one["content"]


async def test_faults_come_as_often_as_they_are_set() -> None:
    provider = SimulatedProvider(
        latency=Latency(first_token=0, per_token=0),
        faults=Faults(errors=0.2, rate_limited=0.1, cuts=0.1),
    )
    seen = {200: 0, 500: 0, 429: 0, "cut": 0}
    for _ in range(400):
        answer = await provider.call(ProviderRequest(body=body(), stream=False))
        try:
            await read_all(answer, limit=10**6)
        except AnswerCut:
            seen["cut"] += 1
        else:
            seen[answer.status] += 1
    assert 50 < seen[500] < 110
    assert 20 < seen[429] < 65
    assert 20 < seen["cut"] < 65


async def test_a_hanging_call_can_be_given_up() -> None:
    provider = SimulatedProvider(faults=Faults(hangs=1.0))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await provider.call(ProviderRequest(body=body(), stream=False))


async def test_a_limit_on_the_answer_is_kept() -> None:
    provider = SimulatedProvider(latency=Latency(first_token=0, per_token=0))
    answer = await provider.call(ProviderRequest(body=body(max_tokens=3), stream=False))
    [choice] = json.loads(await read_all(answer, limit=10**6))["choices"]
    assert choice["finish_reason"] == "length"
    assert len(choice["message"]["content"]) <= 12
