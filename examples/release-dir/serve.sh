#!/bin/sh
# Serves whatever `current` points to, looked up anew for each request. Any web server would do.
set -eu
exec python3 -m http.server 8089 --bind 127.0.0.1 --directory "${RELEASE_ROOT:?}/current"
