"""Serve a network over HTTP: python -m paddlevid.serve --weights F

The processes that read videos import this file too, so what they do not need is imported later.
"""

import argparse
import importlib.util
import ipaddress
import os
import signal
import socket
import sys
import tempfile
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from paddlevid.config import Config, ConfigError, load_config
from paddlevid.flags import Parser, add_config, add_engine, at_least, config_of, describe

# module -> package
NEEDED = {
    "starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}  # fmt: skip
LOOPBACK = ("127.0.0.1", "localhost", "::1")  # what a browser may call this machine


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser(
        prog="python -m paddlevid.serve",
        description="Predict videos that are sent over HTTP: POST /predict, with a page to try it "
        "at /, /healthz and /metrics.",
        epilog="It has no passwords: see docs/serving.md before others can reach it.",
    )
    parser.add_argument(
        "--weights", required=True, type=Path, metavar="FILE", help="as of infer.py"
    )
    add_config(parser)
    parser.add_argument(
        "--trunk", metavar="NAME|FILE", help="with a network for features, as of infer.py"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)"
    )
    parser.add_argument("--port", type=at_least(0), default=8000, help="0: any free one (8000)")
    parser.add_argument(
        "--max-upload-mb", type=at_least(1), default=200, metavar="MB", help="of a file (200)"
    )
    parser.add_argument(
        "--timeout", type=at_least(1), default=60, metavar="SECONDS",
        help="that an upload may take, and that the answer to it may take (60)",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=at_least(1), default=8, metavar="N",
        help="videos that the network predicts together, at most (8)",
    )  # fmt: skip
    parser.add_argument(
        "--wait-ms", type=at_least(0), default=20, metavar="MS",
        help="that the first video of a batch waits for others (20)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=at_least(1), metavar="N", help="processes that decode (one for each core)"
    )
    parser.add_argument(
        "--queue", type=at_least(1), default=64, metavar="N",
        help="requests at a time; more are refused with 503 (64)",
    )  # fmt: skip
    parser.add_argument(
        "--path-root", type=Path, metavar="DIR",
        help="let requests name videos in this folder, instead of sending them",
    )  # fmt: skip
    add_engine(parser)
    args = parser.parse_args(argv)
    if args.port > 65535:
        parser.error(f"--port {args.port}: needs a number up to 65535")
    if args.path_root and not args.path_root.is_dir():
        parser.error(f"--path-root {args.path_root}: there is no such folder")
    args.config = args.config or config_of(parser, args.weights)
    missing = [name for module, name in NEEDED.items() if not importlib.util.find_spec(module)]
    if missing:
        parser.error(f"needs {', '.join(missing)}: pip install {' '.join(missing)}")
    return args


def serve(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; -> exit code."""
    from paddlevid import runtime

    config = load_config(args.config, args.overrides)
    if config.model.task == "predict":
        raise ConfigError(f"{config.model.name} predicts frames: the service is for classifiers")
    if args.trunk and config.model.format != "features":
        raise ConfigError(f"--trunk is for networks of features, not {config.model.create_name}")
    if runtime.is_launched():
        raise ConfigError("the service runs in one process: start it without paddle's launcher")
    with (
        listen(args.host, args.port) as listener,
        tempfile.TemporaryDirectory(prefix="paddlevid_serve_") as folder,
    ):
        runtime.configure()
        service = build_service(args, config)
        server = build_server(args, service, Path(folder))

        def stop(*_: object) -> None:
            server.should_exit = True

        def tell(loaded: Future[None]) -> None:
            if loaded.exception():
                stop()
            else:
                print(f"ready: {url(listener)}", flush=True)

        print(f"{service.name}, {len(service.classes)} classes: loading", flush=True)
        if not is_loopback(args.host):
            print(
                f"warning: with --host {args.host} everybody who reaches the port can use the "
                "service, without a password: see docs/serving.md",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        service.loaded.add_done_callback(tell)
        # These count before uvicorn has its own, which it raises again when it has ended.
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        service.start()
        try:
            server.run(sockets=[listener])
        finally:
            problem = service.loaded.exception() if service.loaded.done() else None
            service.close()
            for number, handler in before.items():
                signal.signal(number, handler)
    if problem:
        raise problem
    print("stopped", flush=True)
    return 0


def build_service(args: argparse.Namespace, config: Config) -> "service.Service":  # noqa: F821
    """The service for a network; it is not started."""
    from paddlevid import build, runtime
    from paddlevid.serve.service import Service

    reader = replace(config.infer, batch_size=args.batch)
    loader = build.build_reader(config, reader, [], labelled=False)
    return Service(
        config.model.create_name,
        build.read_classes(config, args.weights),
        loader.dataset,
        lambda: load_network(args, config),
        batch_size=loader.batch_size,  # less where the views of a clip are many
        wait=args.wait_ms / 1000,
        workers=args.workers or runtime.usable_cores(),
        timeout=args.timeout,
        most=args.queue,
    )


def build_server(
    args: argparse.Namespace,
    service: "service.Service",  # noqa: F821
    folder: Path,
) -> "uvicorn.Server":  # noqa: F821
    """A server for the service, with a folder for uploads."""
    import uvicorn

    from paddlevid.serve.app import create_app, headers

    app = create_app(
        service,
        folder,
        max_upload=args.max_upload_mb * 1_000_000,
        path_root=args.path_root,
        hosts=tuple(dict.fromkeys([*LOOPBACK, args.host])) if is_loopback(args.host) else (),
    )
    options = uvicorn.Config(
        app, http="h11", ws="none", lifespan="off", log_level="warning", access_log=False,
        server_header=False, headers=headers(), timeout_graceful_shutdown=2 * args.timeout + 20,
    )  # fmt: skip
    return uvicorn.Server(options)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections; ConfigError where it cannot."""
    try:
        [family, *_, address], *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family, backlog=512)
    except OSError as error:
        # what Python says of a port in use names the address once more
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno)
        raise ConfigError(
            f"cannot listen on {host}, port {port} ({reason}): choose another --host or --port"
        ) from error


def url(listener: socket.socket) -> str:
    """The address of a socket for a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def load_network(args: argparse.Namespace, config: Config) -> "batcher.Run":  # noqa: F821
    """What gives a batch's probabilities. It belongs to the thread that calls this."""
    from paddlevid import build
    from paddlevid.features import with_trunk
    from paddlevid.metrics import score_views
    from paddlevid.predictor import softmax

    print(build.choose_device(config, args.device), file=sys.stderr, flush=True)
    predictor = build.build_predictor(
        config, args.weights, args.engine, half=args.half, tensorrt=args.tensorrt
    )
    if config.model.format == "features":
        predictor = with_trunk(config.model, predictor, args.trunk)
    return lambda batch: softmax(score_views(predictor, batch))


def main(argv: list[str] | None = None) -> int:
    """Serve; -> exit code."""
    args = parse_args(argv)
    try:
        return serve(args)
    except (ValueError, OSError) as error:
        print(f"paddlevid.serve: {describe(error, args.weights.parent)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("paddlevid.serve: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
