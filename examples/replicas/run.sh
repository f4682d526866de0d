#!/usr/bin/env bash
# Three servers on one PostgreSQL behind nginx; twenty pipelines race through them to deploy one project, while one server is
# killed and another one is stopped. Ends with the checker's verdict, and with 0 only if it found nothing and every
# pipeline succeeded. Everything is made in a directory of its own and goes with the script.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

PIPELINES=${PIPELINES:-20}

say() { printf '%6.1f s  %s\n' "$(bc <<<"$(date +%s.%N) - $began")" "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
began=$(date +%s.%N)

for program in nginx perl curl bc setpriv flock; do
    command -v "$program" >/dev/null || fail "$program is missing: run scripts/prerequisites"
done
postgres=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort --version-sort | tail -n 1)
[ -n "$postgres" ] || postgres=$(pg_config --bindir) || fail "PostgreSQL is missing: run scripts/prerequisites"

# The programs: built here unless somebody else has done so.
if [ -z "${SINGLETRACK:-}" ] || [ -z "${CHECK_HISTORY:-}" ]; then
    cargo build --manifest-path "$root/Cargo.toml" --locked --bin singletrack --example check-history
    target=$(cargo metadata --manifest-path "$root/Cargo.toml" --locked --no-deps --format-version 1 |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    SINGLETRACK=$target/debug/singletrack CHECK_HISTORY=$target/debug/examples/check-history
fi
export SINGLETRACK

dir=$(mktemp -d "${TMPDIR:-/tmp}/singletrack-replicas.XXXXXX")
export DIR=$dir
pids=()
clean_up() {
    trap - EXIT
    for pid in "${pids[@]}"; do
        kill -KILL "$pid" 2>/dev/null || true
    done
    [ ! -f "$dir/nginx.pid" ] || kill -QUIT "$(cat "$dir/nginx.pid")" 2>/dev/null || true
    [ ! -d "$dir/database/data" ] || as_owner "$postgres/pg_ctl" -D "$dir/database/data" -s -m immediate stop || true
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# PostgreSQL refuses root.
as_owner() {
    if [ "$(id -u)" -eq 0 ]; then
        (cd / && exec setpriv --reuid "$owner" --regid "$owner" --clear-groups "$@")
    else
        "$@"
    fi
}
owner=$(id -u postgres 2>/dev/null || id -u nobody)

say "starting PostgreSQL"
mkdir "$dir/database"
chmod 711 "$dir"
[ "$(id -u)" -ne 0 ] || chown "$owner" "$dir/database"
as_owner "$postgres/initdb" --auth=trust --username=singletrack --encoding=UTF8 --locale=C -D "$dir/database/data" >"$dir/initdb.log"
as_owner "$postgres/pg_ctl" -D "$dir/database/data" -s -w -l "$dir/database/log" \
    -o "-k '$dir/database' -c listen_addresses=" start
store="postgres://singletrack@/postgres?host=$dir/database"

# A proxy needs tokens: it calls from this machine, for everybody whom it serves.
SINGLETRACK_TOKEN=$("$SINGLETRACK" token new --name pipelines 2>"$dir/token.toml")
export SINGLETRACK_TOKEN
{ cat "$here/singletrack.toml"; sed -n '/^\[\[tokens\]\]/,$p' "$dir/token.toml"; } >"$dir/singletrack.toml"

# Starts a server and waits until it listens; where, is in $address and its pid is the last of $pids.
serve() {
    mkfifo "$dir/$1.said"
    "$SINGLETRACK" serve --config "$dir/singletrack.toml" --store "$store" --work-dir "$dir/$1" --listen 127.0.0.1:0 \
        >"$dir/$1.said" 2>"$dir/$1.log" &
    pids+=($!)
    # Its end is no news to the shell.
    disown
    read -r said <"$dir/$1.said" || fail "$1 did not start: $(cat "$dir/$1.log")"
    address=${said#listening on http://}
    say "$1 listens on $address (pid ${pids[-1]})"
}
servers=
for name in one two three; do
    serve "$name"
    servers+="        server $address max_fails=1 fail_timeout=10s;"$'\n'
done

# Listens on a free port, says which, waits for a line, and becomes the command, which inherits the listening socket by nginx's
# own variable for that. nginx cannot take a free port itself, and a port that is only looked up beforehand may be another
# program's by the time nginx wants it.
on_free_port() {
    exec perl -MSocket -MFcntl -e '
        my $listener;
        socket($listener, PF_INET, SOCK_STREAM, 0) && bind($listener, pack_sockaddr_in(0, INADDR_LOOPBACK))
            && listen($listener, SOMAXCONN) && fcntl($listener, F_SETFD, 0) or die "no port: $!";
        my ($port) = unpack_sockaddr_in(getsockname($listener));
        $| = 1;
        print "$port\n";
        $ENV{NGINX} = fileno($listener) . ";";
        <STDIN>;
        exec @ARGV or die "cannot run $ARGV[0]: $!";
    ' "$@"
}
mkfifo "$dir/port" "$dir/configured"
on_free_port nginx -p "$dir" -c "$dir/nginx.conf" <"$dir/configured" >"$dir/port" 2>>"$dir/nginx.log" &
disown
exec 8>"$dir/configured"
read -r port <"$dir/port" || fail "there is no port for nginx: $(cat "$dir/nginx.log")"
template=$(<"$here/nginx.conf")
template=${template//@DIR@/$dir} template=${template//@PORT@/$port}
printf '%s\n' "${template//@SERVERS@/$servers}" >"$dir/nginx.conf"
echo >&8
exec 8>&-
export SINGLETRACK_URL=http://127.0.0.1:$port
# The socket listens already, so the first request waits for nginx; if nginx does not start, it fails.
curl --silent --fail --output /dev/null "$SINGLETRACK_URL/healthz" || fail "nginx did not start: $(cat "$dir/nginx.log")"
say "nginx is in front of them at $SINGLETRACK_URL"

# What each pipeline does while it has the slot. The lock tells whether another one does so at the same time.
export STEP='
exec 9>>"$DIR/witness"
flock --nonblock 9 || echo "$SINGLETRACK_FENCING_TOKEN" >>"$DIR/overlaps"
echo "$SINGLETRACK_FENCING_TOKEN" >>"$DIR/order"
sleep 0.5
'
pipeline() {
    "$SINGLETRACK" run --project shop --actor "pipeline-$1" --commit "race-$1" \
        --timeout 3m -- sh -c "$STEP" >"$dir/pipeline-$1.log" 2>&1 && code=0 || code=$?
    echo "$1 $code" >>"$dir/ended"
}
touch "$dir/ended" "$dir/order"
say "$PIPELINES pipelines race"
racers=()
for number in $(seq "$PIPELINES"); do
    pipeline "$number" &
    racers+=($!)
    pids+=($!)
done

# Waits until so many have had the slot, or nobody can have it any more.
passed() {
    until [ "$(wc -l <"$dir/order")" -ge "$1" ] || [ "$(wc -l <"$dir/ended")" -eq "$PIPELINES" ]; do sleep 0.1; done
}
passed $((PIPELINES / 5))
say "kill -KILL ${pids[0]} (server one)"
kill -KILL "${pids[0]}"
passed $((PIPELINES * 2 / 5))
say "kill -STOP ${pids[1]} (server two)"
kill -STOP "${pids[1]}"
passed $((PIPELINES * 4 / 5))
say "kill -CONT ${pids[1]} (server two)"
kill -CONT "${pids[1]}"
for racer in "${racers[@]}"; do wait "$racer"; done
say "all have ended"

# One through `deploy`, which a server's worker runs, and what it tells is held against the store, too.
"$SINGLETRACK" deploy --project shop --json >"$dir/told.json" 2>"$dir/deploy.log" ||
    fail "the last deploy failed: $(cat "$dir/deploy.log")"

lost=$(grep -cv ' 0$' "$dir/ended" || true)
echo
"$SINGLETRACK" list --project shop --limit "$((PIPELINES + 1))" | head -n 5
echo "…"
echo
echo "pipelines: $((PIPELINES - lost)) of $PIPELINES succeeded"
echo "witness:   $(wc -l <"$dir/order") commands ran, $([ -f "$dir/overlaps" ] && wc -l <"$dir/overlaps" || echo 0) of them beside another"
verdict=0
printf 'checker:   '
"$CHECK_HISTORY" "$store" --told "$dir/told.json" || verdict=1
if [ "$lost" -ne 0 ]; then
    verdict=1
    for number in $(sed -n '/ 0$/!s/ .*//p' "$dir/ended"); do
        printf -- '--- pipeline %s:\n' "$number"
        cat "$dir/pipeline-$number.log"
    done
fi
[ ! -f "$dir/overlaps" ] || verdict=1
exit "$verdict"
