"""`python -m k8s.kind up|image|status|lacks|down`: the local cluster of `make local-kind-test`."""

import argparse
import json
import sys
from collections.abc import Sequence

from k8s.errors import LauncherError
from k8s.kind.commands import step
from k8s.kind.local_cluster import LocalCluster
from k8s.kind.toolbox import ToolError
from k8s.kind.trainer_image import build_image, image_name


def main(arguments: Sequence[str] | None = None) -> int:
    """One command; results go to stdout, progress to stderr."""
    parser = argparse.ArgumentParser(prog="python -m k8s.kind", description="A Kubernetes cluster on this machine, by kind.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="make the cluster with both operators, or see that it is there")
    up.add_argument("images", nargs="*", metavar="IMAGE", help="a local image that it shall have")
    commands.add_parser("status", help="what runs, as JSON; exit code 1 if it is not up")
    commands.add_parser("lacks", help="what `up` and the tests would build first; exit code 1 if anything")
    image = commands.add_parser("image", help="build the trainer's image; prints its name")
    image.add_argument("variant", choices=["cuda", "cpu"])
    commands.add_parser("down", help="take it away; caches stay")
    options = parser.parse_args(arguments)
    try:
        return _act(LocalCluster.find(), options)
    except (LauncherError, ToolError) as error:
        print(f"kind: {error}", file=sys.stderr)
        return error.exit_code


def _act(cluster: LocalCluster, options: argparse.Namespace) -> int:
    if options.command == "up":
        with step("from what was there to a cluster"):
            cluster.up()
            for image in options.images:
                cluster.load(image)
        print(cluster.kubeconfig)
    elif options.command == "status":
        status = cluster.status()
        print(json.dumps(status, indent=2))
        return 0 if status["up"] else 1
    elif options.command == "lacks":
        lacking = cluster.lacks(image_name("cpu"))
        print("\n".join(lacking), end="\n" if lacking else "")
        return 1 if lacking else 0
    elif options.command == "image":
        cluster.docker.start()
        print(build_image(cluster.docker, options.variant))
    else:
        cluster.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
