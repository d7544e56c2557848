"""The commands there are, each loaded when it is asked for."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import traceback
from typing import Any, NamedTuple

import click

import penstock
from penstock.cli import output
from penstock.domain.errors import PenstockError

_FAILED = 1
_INTERRUPTED = 130


class _Command(NamedTuple):
    section: str
    module: str
    help: str


_COMMANDS = {
    "init": _Command("Projects", "projects", "Make a new agent project."),
    "up": _Command("Projects", "servers", "Start a server, and serve a project with it."),
    "dev": _Command("Projects", "servers", "Like up, and again whenever a file changes."),
    "chat": _Command("Projects", "chat", "Talk to an agent."),
    "demo": _Command("Projects", "demo", "See a bad release caught and a good one proven."),
    "release": _Command("Delivery", "releases", "Cut, derive, compare, export a release."),
    "releases": _Command("Delivery", "releases", "List an agent's releases."),
    "diff": _Command("Delivery", "releases", "Show what changed between two releases."),
    "prompt": _Command("Delivery", "prompts", "Publish prompts without touching code."),
    "components": _Command("Delivery", "components", "List the versions of an agent's parts."),
    "environments": _Command("Delivery", "environments", "Show and set what environments add."),
    "deploy": _Command("Delivery", "rollouts", "Give a release traffic, step by step."),
    "status": _Command("Delivery", "agents", "Show what is deployed and how it is doing."),
    "promote": _Command("Delivery", "rollouts", "Make the candidate stable now."),
    "abort": _Command("Delivery", "rollouts", "End the rollout; stable keeps all traffic."),
    "pause": _Command("Delivery", "rollouts", "Keep the rollout where it is."),
    "resume": _Command("Delivery", "rollouts", "Let a paused rollout go on."),
    "rollback": _Command("Delivery", "rollouts", "Go back to the release before, or to another."),
    "rollout": _Command("Delivery", "rollouts", "Show a rollout with its evidence and story."),
    "task": _Command("Running", "tasks", "Create, watch, answer, list and cancel tasks."),
    "session": _Command("Running", "sessions", "List, show, end and delete sessions."),
    "memory": _Command("Running", "memories", "Show and delete what agents remember."),
    "logs": _Command("Running", "tasks", "Show what a task printed and did."),
    "worker": _Command("Running", "servers", "Run attempts for the servers of a database."),
    "drain": _Command("Running", "workers", "Let a worker finish or hand back, and leave."),
    "workers": _Command("Running", "workers", "List who runs tasks, and how many."),
    "backup": _Command("Keeping", "backups", "Copy everything the server holds into a file."),
    "restore": _Command("Keeping", "backups", "Put a backup into an empty store."),
    "gc": _Command("Keeping", "garbage", "Find and remove what nothing needs."),
    "upgrade": _Command("Keeping", "upgrades", "See what a new version would do to the data."),
    "login": _Command("Access", "access", "Remember a server's address and your key."),
    "signing": _Command("Access", "signing", "List, rotate and trust the keys that sign."),
    "keys": _Command("Access", "access", "List, create and revoke keys."),
}


class _Lazy(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Every command."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """One command, imported now."""
        known = _COMMANDS.get(cmd_name)
        if known is None:
            return None
        module = importlib.import_module(f"penstock.cli.{known.module}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is meant, or what was perhaps meant."""
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            import difflib  # noqa: PLC0415 - only for a mistake

            near = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            also = f" Did you mean {near[0]}?" if near else ""
            ctx.fail(f"there is no command {args[0]!r}.{also}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """The commands by section, without importing one."""
        for section in dict.fromkeys(known.section for known in _COMMANDS.values()):
            rows = [(n, known.help) for n, known in _COMMANDS.items() if known.section == section]
            with formatter.section(section):
                formatter.write_dl(rows)


@click.command(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Begin with: penstock init my-agent && penstock up my-agent",
)
@click.version_option(penstock.__version__, message="penstock %(version)s")
def cli() -> None:
    """The release gate for AI agents."""


def run(arguments: list[str] | None = None) -> int:  # noqa: PLR0911 - one status a kind of end
    """Run a command line; its exit status. 0 done, 1 failed, 2 not understood, 130 interrupted."""
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        status: Any = cli.main(args=arguments, prog_name="penstock", standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        output.show_error(PenstockError(error.format_message()), as_json=as_json)
        return _FAILED
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except PenstockError as error:
        output.show_error(error, as_json=as_json)
        return _FAILED
    except BrokenPipeError:
        return 0
    except Exception as error:  # noqa: BLE001 - whatever it is, a person reads a sentence
        return _fault(error, as_json=as_json)
    return status if isinstance(status, int) else 0


def _fault(error: Exception, *, as_json: bool) -> int:
    if os.environ.get("PENSTOCK_DEBUG"):
        traceback.print_exc()
        return _FAILED
    with tempfile.NamedTemporaryFile(
        "w", prefix="penstock-", suffix=".log", delete=False, encoding="utf-8"
    ) as file:
        traceback.print_exc(file=file)
    hint = f"This is a fault of Penstock; {file.name} says more."
    output.show_error(PenstockError(f"{type(error).__name__}: {error}", hint=hint), as_json=as_json)
    return _FAILED
