"""The demo: a worse prompt is caught and rolled back, a better one proven and promoted."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

import penstock
from penstock.cli.demo_server import DemoServer
from penstock.cli.demo_traffic import Customers
from penstock.cli.demo_view import Scene, View
from penstock.cli.output import dollars, emit, json_option, strong, table
from penstock.cli.projects import packed
from penstock.client import AsyncClient
from penstock.domain.errors import Invalid

_NAMES = ("stable", "worse", "better")
_PROMPT = Path("prompts", "system.prompt")
_WARM_UP = 300  # sessions of stable before the first rollout: its baseline
_LONGEST_SECONDS = 200.0  # of one rollout
_POLL_SECONDS = 0.4
_OVER = ("live", "rolled_back", "draining", "retired")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What became of one candidate."""

    candidate: str
    wanted: str
    phase: str
    sessions: int
    candidate_sessions: int
    seconds: float
    explanation: str

    @property
    def as_wanted(self) -> bool:
        """Whether the platform decided what should be decided."""
        return self.phase == self.wanted


@click.command()
@click.option(
    "--prompts",
    "folder",
    type=click.Path(path_type=Path),
    help="Your own stable.prompt, worse.prompt and better.prompt.",
)
@click.option("--seed", default=1, show_default=True, help="Of customers and simulated model.")
@click.option("--clients", default=40, show_default=True, help="Customers at the same time.")
@click.option("--latency", default=0.25, show_default=True, help="Times the model's usual delays.")
@click.option("--keep", is_flag=True, help="Keep the demo's data and say where it is.")
@json_option
def demo(
    folder: Path | None, seed: int, clients: int, latency: float, *, keep: bool, as_json: bool
) -> int:
    """See a bad release caught and a good one proven, with real sessions.

    Starts a server of its own and deploys the support example. Customers come as fast as they are
    answered. A worse prompt is released and gets 10 % of them: it must be rolled back by the
    statistics. Then a better one: it must be promoted by proof. The model is simulated and sees
    nothing but each request; swap the prompts, and the verdicts swap.

    Exit status 0 only if both really happened.
    """
    texts = _prompts(folder)
    with _workplace(keep=keep) as place:
        report = asyncio.run(
            _play(place, texts, seed=seed, clients=clients, latency=latency, silent=as_json)
        )
        if keep and not as_json:
            click.echo(f"\nThe demo's data is in {place}")
    emit(report, as_json=as_json, show=_show)
    return 0 if report["ok"] else 1


async def _play(
    place: Path, texts: dict[str, str], *, seed: int, clients: int, latency: float, silent: bool
) -> dict[str, Any]:
    begun = time.monotonic()
    project = place / "project"
    shutil.copytree(example(), project)
    server = DemoServer(place / "home", seed=seed, latency=latency)
    async with server, AsyncClient(server.url, server.key) as client:
        with View(silent=silent) as view:
            play = _Play(client, project, view, seed=seed, clients=clients)
            await play.begin(texts["stable"])
            verdicts = [
                await play.roll_out("worse", texts["worse"], wanted="rolled_back"),
                await play.roll_out("better", texts["better"], wanted="live"),
            ]
    tally = play.customers.tally
    return {
        "ok": all(verdict.as_wanted for verdict in verdicts),
        "seed": seed,
        "isolation": "process",
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "sessions": tally.ended,
        "sessions_per_second": round(tally.rate, 1),
        "tasks": dict(tally.states),
        "unanswered_requests": tally.errors,
        "cost_nanos": tally.cost_nanos,
        "seconds": round(time.monotonic() - begun, 1),
    }


class _Play:
    """The demo's acts, one after the other."""

    def __init__(
        self, client: AsyncClient, project: Path, view: View, *, seed: int, clients: int
    ) -> None:
        self._client = client
        self._project = project
        self._view = view
        self._agent = ""
        self._seed = seed
        self._clients = clients
        self.customers = Customers(client, "", seed=seed, count=clients)

    async def begin(self, prompt: str) -> None:
        """Deploy the agent and let it serve for a while."""
        view = self._view
        view.say("Building the support example's environment (the first time takes a while) …")
        release = await self._release(prompt, "the prompt that serves")
        self._agent = release["agent"]
        self.customers = Customers(self._client, self._agent, seed=self._seed, count=self._clients)
        await self._client.deploy(self._agent, ref=release["digest"])
        view.say(f"{self._agent} v{release['number']} is stable  {release['composite']}")
        scene = Scene(title="customers of the stable release", tally=self.customers.tally)
        driving = asyncio.create_task(self.customers.drive(asyncio.Event(), sessions=_WARM_UP))
        while not driving.done():
            view.show(scene)
            await asyncio.wait({driving}, timeout=_POLL_SECONDS)
        await driving

    async def roll_out(self, name: str, prompt: str, *, wanted: str) -> Verdict:
        """Release a prompt, give it traffic, and see what is decided."""
        view, tally = self._view, self.customers.tally
        release = await self._release(prompt, f"a {name} prompt")
        deployed = await self._client.deploy(self._agent, ref=release["digest"], strategy="canary")
        rollout = deployed["rollout"]
        if rollout is None:
            raise Invalid(
                f"{name}.prompt is the prompt that is stable already",
                hint="The three prompts must differ.",
            )
        view.say(f"\n{self._agent} v{release['number']} ({name} prompt) gets 10 % of new sessions")
        begun, sessions = time.monotonic(), tally.ended
        over = asyncio.Event()
        driving = asyncio.create_task(self.customers.drive(over))
        scene = Scene(title=f"rollout of the {name} prompt", tally=tally)
        try:
            while True:
                scene.rollout = await self._client.rollout(rollout["id"])
                view.show(scene)
                took = time.monotonic() - begun
                if scene.rollout["rollout"]["phase"] in _OVER or took > _LONGEST_SECONDS:
                    break
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            over.set()
            await driving
        found = scene.rollout
        phase = found["rollout"]["phase"]
        view.say(f"{phase.replace('_', ' ')} after {tally.ended - sessions} sessions")
        for paragraph in found["explanation"][-2:]:
            view.say(f"  {paragraph}")
        if phase not in _OVER:
            await self._client.change_rollout(self._agent, "abort")
        return Verdict(
            candidate=name,
            wanted=wanted,
            phase=phase,
            sessions=tally.ended - sessions,
            candidate_sessions=found["assigned"]["candidate"],
            seconds=round(time.monotonic() - begun, 1),
            explanation="\n".join(found["explanation"]),
        )

    async def _release(self, prompt: str, message: str) -> Any:
        (self._project / _PROMPT).write_text(prompt, encoding="utf-8")
        archive = await asyncio.to_thread(packed, self._project)
        cut = await self._client.cut_release(archive, message=message)
        return cut["release"]


def example() -> Path:
    """The support example: beside the package when it was installed, else in the source tree.

    Raises:
        Invalid: it is nowhere.
    """
    package = Path(penstock.__file__).parent
    for folder in (package / "examples" / "support", package.parents[1] / "examples" / "support"):
        if (folder / "penstock.yaml").is_file():
            return folder
    raise Invalid("the support example is not part of this installation")


def _prompts(folder: Path | None) -> dict[str, str]:
    source = example()
    files = {
        "stable": source / _PROMPT,
        "worse": source / "variants" / "worse.prompt",
        "better": source / "variants" / "better.prompt",
    }
    if folder is not None:
        files = {name: folder / f"{name}.prompt" for name in _NAMES}
    texts = {}
    for name, file in files.items():
        try:
            texts[name] = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(
                f"{file} cannot be read: {error}",
                hint="--prompts names a directory with stable.prompt, worse.prompt, better.prompt.",
            ) from None
    return texts


@contextlib.contextmanager
def _workplace(*, keep: bool) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="penstock-demo-"))
    try:
        yield place
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)


def _show(report: dict[str, Any]) -> None:
    click.echo()
    table(
        ("candidate", "should be", "was", "sessions", "on the candidate", "seconds"),
        [
            (
                f"{verdict['candidate']} prompt",
                _WORDS[verdict["wanted"]],
                _WORDS.get(verdict["phase"], f"not decided ({verdict['phase']})"),
                verdict["sessions"],
                verdict["candidate_sessions"],
                verdict["seconds"],
            )
            for verdict in report["verdicts"]
        ],
        empty="",
    )
    click.echo(
        f"\n{report['sessions']} sessions at {report['sessions_per_second']}/s,"
        f" {report['isolation']} isolation, {dollars(report['cost_nanos'])} (simulated),"
        f" {report['seconds']:.0f} s in all"
    )
    if report["ok"]:
        click.echo(
            strong("The worse prompt was rolled back, the better one was promoted by proof.")
        )
        return
    for verdict in report["verdicts"]:
        if verdict["phase"] != verdict["wanted"]:
            click.echo(
                f"The {verdict['candidate']} prompt should have been {_WORDS[verdict['wanted']]},"
                f" and was {_WORDS.get(verdict['phase'], 'not decided in time')}."
            )


_WORDS = {"live": "promoted", "rolled_back": "rolled back"}
