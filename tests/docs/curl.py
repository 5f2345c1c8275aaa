"""Stands in for curl where there is none: only what the documentation uses, and an error exit for error answers."""

import argparse
import sys
import urllib.error
import urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("-s", action="store_true")
parser.add_argument("-H", action="append", default=[])
parser.add_argument("-d")
parser.add_argument("--fail-with-body", action="store_true")
parser.add_argument("--noproxy")
given = parser.parse_args()
headers = dict(header.split(": ", 1) for header in given.H)
if not given.url.startswith("http://127.0.0.1:"):
    sys.exit("only for the local service")
request = urllib.request.Request(given.url, given.d.encode() if given.d else None, headers)  # noqa: S310
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    with opener.open(request, timeout=60) as answer:
        sys.stdout.write(answer.read().decode())
except urllib.error.HTTPError as error:
    sys.stdout.write(error.read().decode())
    sys.exit(22)
