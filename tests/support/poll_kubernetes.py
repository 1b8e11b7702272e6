#!/usr/bin/env python3
"""Ask an API server every 100 ms with a kubeconfig as it is at that moment, each time by a new connection.

Usage: poll_kubernetes.py KUBECONFIG OUTPUT [--keep] [--interval SECONDS]

Appends a line for each failed request to OUTPUT, and at the end, which SIGTERM brings, a summary as JSON. With --keep
one connection is kept as long as the server keeps it.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import signal
import ssl
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml


def connection(path: Path) -> http.client.HTTPSConnection:
    """Return a connection, not opened yet, by a kubeconfig with everything inside."""
    document = yaml.safe_load(path.read_text())
    cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pem:
        pem.write(base64.b64decode(user["client-certificate-data"]) + b"\n" + base64.b64decode(user["client-key-data"]))
        pem.flush()
        context.load_cert_chain(pem.name)
    url = urlsplit(cluster["server"])
    return http.client.HTTPSConnection(url.hostname or "", url.port or 443, context=context, timeout=10)


def main() -> None:
    """Poll until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--interval", type=float, default=0.1)
    given = parser.parse_args()
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: ended.append(number))
    seen: dict[str, Any] = {"requests": 0, "failed": 0, "slowest": 0.0, "issuers": []}
    kept = None
    with given.output.open("a") as output:
        while not ended:
            started = time.monotonic()
            try:
                asked = kept or connection(given.kubeconfig)
                asked.request("GET", "/api/v1/namespaces/kube-system")
                answer = asked.getresponse()
                answer.read()
                if answer.status != 200:
                    raise OSError(f"status {answer.status}")
                issuer = (
                    dict(each[0] for each in asked.sock.getpeercert()["issuer"])["commonName"] if asked.sock else ""
                )
                if issuer and issuer not in seen["issuers"]:
                    seen["issuers"].append(issuer)
                kept = asked if given.keep else asked.close()
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                kept = None
                seen["failed"] += 1
                output.write(f"{time.strftime('%H:%M:%S')} {type(error).__name__}: {error}\n")
                output.flush()
            seen["requests"] += 1
            took = time.monotonic() - started
            seen["slowest"] = round(max(seen["slowest"], took), 3)
            time.sleep(max(0.0, given.interval - took))
        output.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main()
