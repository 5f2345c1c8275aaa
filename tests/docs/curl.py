"""Stands in for curl where there is none: only what the documentation uses, and an error exit for error answers."""

from __future__ import annotations

import argparse
import sys
import urllib.error
import urllib.request


def main() -> int:
    """Send the request and print the answer; 22 for an error answer, as curl has it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("-s", action="store_true")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d")
    parser.add_argument("--fail-with-body", action="store_true")
    parser.add_argument("--noproxy")
    given = parser.parse_args()
    headers = dict(header.split(": ", 1) for header in given.H)
    request = urllib.request.Request(given.url, given.d.encode() if given.d else None, headers)  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            sys.stdout.write(answer.read().decode())
    except urllib.error.HTTPError as error:
        sys.stdout.write(error.read().decode())
        return 22
    return 0


if __name__ == "__main__":
    sys.exit(main())
