"""Runs the story, and leaves nothing behind: exit status 0 if it kept all that it promises."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

try:
    import trio
    from rich.console import Console

    from clustercore.cli.demo.errors import DemoFailed
    from clustercore.cli.exits import Failure, attempt, leave
    from clustercore.interfaces import ConfigError
    from clustercore_grpc import GrpcTransport

    from .center import Center
    from .checks import check
    from .fleet import Fleet
    from .page import Page
    from .server import make_folder
    from .story import Story
except KeyboardInterrupt:
    sys.exit(130)
except ModuleNotFoundError as missing:
    sys.exit(f"{missing.name} is not installed; the example needs clustercore[grpc,cli], and [consul] for --consul")

UAVS = range(20, 5001)


async def main(options: argparse.Namespace) -> bool:
    """Tell the story, and return whether it was kept. Whatever happens, no server is left."""
    console = Console()
    is_live = console.is_terminal and not options.headless
    if options.consul is not None:
        await _check_answers(options.consul)
    with ExitStack() as stack:
        data = stack.enter_context(_folder(options.data))
        async with GrpcTransport() as transport, trio.open_nursery() as nursery:
            nursery.start_soon(_stop_at_sigterm)
            center = Center(transport, data, options.consul, stack)
            fleet = Fleet([server.client for server in center.servers], options.uavs)
            page = Page(center, console, is_live=is_live)
            story = Story(center, fleet, page, options.pause)
            try:
                await story.tell()
                kept = await check(center, fleet, story.edits, page.saved_bytes)
            finally:
                await center.stop()
            nursery.cancel_scope.cancel()
    console.print(page.render())
    for promise, is_kept in kept.items():
        console.print(f"{'kept  ' if is_kept else 'BROKEN'}  {promise}", soft_wrap=True, highlight=False)
    for line in (
        f"heartbeats: {fleet.taken:,} taken by the servers, {fleet.lost:,} by none; {fleet.late:,} not sent in time",
        f"conflicts resolved: {page.conflicts}; bytes saved by incremental sync: {page.saved_bytes:,}",
    ):
        console.print(line, soft_wrap=True, highlight=False)
    return all(kept.values())


async def _check_answers(url: str) -> None:
    """Servers wait for a Consul that is away, for ever; who runs the story has rather forgotten to start it."""
    where = urlsplit(url)
    try:
        port = where.port or 8500
    except ValueError as error:
        raise ConfigError(f"--consul {url}: expected a URL such as http://127.0.0.1:8500: {error}") from error
    try:
        await (await trio.open_tcp_stream(where.hostname or "", port)).aclose()
    except OSError as error:
        raise ConfigError(f"--consul {url}: nobody answers there; `consul agent -dev` starts one") from error


async def _stop_at_sigterm() -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            raise KeyboardInterrupt


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    """Lend a folder for the servers' files: a temporary one, or one that stays."""
    if given is None:
        with tempfile.TemporaryDirectory(prefix="cluster-center-") as folder:
            yield Path(folder)
    else:
        make_folder(given)
        yield given.absolute()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cluster_center", description="Tell the story of the Cluster Center.")
    parser.add_argument("--uavs", type=int, default=1000, help=f"from {UAVS[0]} to {UAVS[-1]}; 1000 by default")
    parser.add_argument("--pause", type=float, default=3.0, help="seconds to read, in each chapter")
    parser.add_argument("--consul", metavar="URL", help="find each other by this Consul; by a fixed list otherwise")
    parser.add_argument("--data", type=Path, metavar="DIR", help="keep the servers' files there, in an empty folder")
    parser.add_argument("--headless", action="store_true", help="print lines, and the page once, at the end")
    options = parser.parse_args()
    if options.uavs not in UAVS:
        parser.error(f"--uavs {options.uavs}: expected from {UAVS[0]} to {UAVS[-1]}")
    if not 0 <= options.pause < 60:
        parser.error(f"--pause {options.pause}: expected from 0 to 60 seconds")
    if options.data is not None and options.data.exists():
        if not options.data.is_dir():
            parser.error(f"--data {options.data}: is no folder")
        if any(options.data.iterdir()):
            parser.error(f"--data {options.data}: is not empty; name an empty folder, or a new one")
    if options.consul is not None and not options.consul.startswith(("http://", "https://")):
        parser.error(f"--consul {options.consul}: expected a URL such as http://127.0.0.1:8500")
    return options


if __name__ == "__main__":
    outcome = attempt(main, arguments())
    if isinstance(outcome, Failure):
        if isinstance(outcome.error, DemoFailed):
            sys.stderr.write(f"{outcome.error.evidence}\n")
        leave(outcome.error)
    sys.exit(0 if outcome else 1)
