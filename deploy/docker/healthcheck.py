"""The container's health: exit code 0 if the process in it says that it is ready.

Which port it listens on comes from the same variables that the process itself reads. One-shot commands have none.
"""

import os
import sys
import urllib.error
import urllib.request

TIMEOUT_SECONDS = 3.0  # below the four seconds that the image gives a check


def main() -> int:
    """Ask /health/ready; what is not ready goes to standard error, where `docker inspect` shows it."""
    port = os.environ.get("DAYBOOK_HTTP_PORT") or os.environ.get("DAYBOOK_HEALTH_PORT")
    if not port:
        print("neither DAYBOOK_HTTP_PORT nor DAYBOOK_HEALTH_PORT is set", file=sys.stderr)
        return 1
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is never proxied
    try:
        with opener.open(f"http://127.0.0.1:{port}/health/ready", timeout=TIMEOUT_SECONDS):
            return 0
    except urllib.error.HTTPError as error:
        with error:
            print(error.read(4096).decode("utf-8", "replace"), file=sys.stderr)
    except OSError as error:
        print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
