# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Wait until a runtime serves, and say why not when it does not."""

from __future__ import annotations

import time
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import OpenerDirector

from ansible_collections.vllmd.platform.plugins.module_utils import host_http
from ansible_collections.vllmd.platform.plugins.module_utils.consoles import failure
from ansible_collections.vllmd.platform.plugins.module_utils.hypervisor_managers import (
    STOPPED,
    LaunchError,
    Manager,
    console_end,
)

_REQUEST_SECONDS = 5
_PAUSE_SECONDS = 1.0
_OBSERVE_SECONDS = 5.0
_GIVE_UP_SECONDS = 15.0


def probe(opener: OpenerDirector, url: str) -> str:
    """Return an empty string when ``url`` answers 200, else in a few words what happened."""
    try:
        with opener.open(url, timeout=_REQUEST_SECONDS) as response:
            return "" if response.status == 200 else f"it answered {response.status}"
    except HTTPError as error:
        return f"it answered {error.code}"
    except URLError as error:
        return str(error.reason)
    except (OSError, HTTPException) as error:
        return str(error) or type(error).__name__


def wait_until_healthy(url: str, timeout: int, manager: Manager, since: int = 0) -> float:
    """Return after how many seconds ``url`` answered 200.

    LaunchError when it did not within ``timeout`` seconds, when the virtual machine ended before (also if systemd
    starts it again), or when the guest said behind byte ``since`` of its console log that it gave up; all with the last
    lines of the guest's console.
    """
    opener = host_http.opener()
    began = observed = time.monotonic()
    gave_up = began
    ends_before, _reason = manager.ends()
    while problem := probe(opener, url):
        now = time.monotonic()
        if now - began > timeout:
            raise LaunchError(f"{url} was not healthy within {timeout} s ({problem}); {console_end(manager)}")
        if now - observed > _OBSERVE_SECONDS:
            observed = now
            if manager.observe()[0] == STOPPED:
                raise LaunchError(f"it ended after {now - began:.0f} s, before {url} answered; {console_end(manager)}")
            ends, why = manager.ends()
            if ends > ends_before:
                raise LaunchError(
                    f"it ended after {now - began:.0f} s, before {url} answered, and is started again ({why}); "
                    f"{console_end(manager)}"
                )
            reason = failure(manager.log_path, since)
            gave_up = gave_up if reason else now
            # Its service manager starts a failed engine again after a few seconds, twice.
            if reason and now - gave_up > _GIVE_UP_SECONDS:
                raise LaunchError(f"it runs, but its guest gave up: {reason}; {console_end(manager)}")
        time.sleep(_PAUSE_SECONDS)
    return time.monotonic() - began
