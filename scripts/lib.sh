# shellcheck shell=bash
# Sourced by the other scripts: stages with a name and a duration, one-line errors.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export venv=${VLLMD_VENV:-$root/.venv}
export PATH=$venv/bin:$PATH

# say TEXT: a line for a person, on stderr so that a command's own output stays clean.
say() { printf '%s\n' "$*" >&2; }

# die WHAT HINT: one line, then exit 1.
die() {
    printf 'error: %s%s\n' "$1" "${2:+; $2}" >&2
    exit 1
}

# as_root COMMAND...: run it as it is for root, by sudo for anybody else.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo --preserve-env=DEBIAN_FRONTEND "$@"
    else
        die "'$1' needs root and sudo is not installed" "run this as root"
    fi
}

# duration SECONDS: 75 -> 1m15s.
duration() {
    if [ "$1" -lt 60 ]; then printf '%ds' "$1"; else printf '%dm%02ds' $(($1 / 60)) $(($1 % 60)); fi
}

# with_log LOG COMMAND...: run it with its output in LOG, show every 10 s that it is alive,
# and on failure show the last lines. Returns the command's exit status.
with_log() {
    local log=$1 pid started=$SECONDS shown=0 status=0 width=100
    shift
    mkdir -p "$(dirname "$log")"
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    # A Ctrl-C that ends this script must end what it started, too.
    trap 'kill "$pid" 2>/dev/null' EXIT
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.2
        if [ $((SECONDS - started - shown)) -ge 10 ]; then
            shown=$((SECONDS - started))
            say "      $(duration "$shown")  $(tail -c 400 "$log" | tr '\r' '\n' | grep -v '^ *$' | tail -n 1 | cut -c "1-$width")"
        fi
    done
    wait "$pid" || status=$?
    trap - EXIT
    [ "$status" -eq 0 ] || tail -n 15 "$log" >&2
    return "$status"
}
