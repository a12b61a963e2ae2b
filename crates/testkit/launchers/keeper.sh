#!/bin/sh
# Runs one server for exactly as long as somebody needs it, and leaves nothing behind.
#
#   keeper.sh owner|lease|stay HOME LOG COMMAND...
#
#   owner  until standard input closes, which also happens when the process that started it is killed
#   lease  until nobody has held a lock on HOME/lease for a minute
#   stay   until it is killed
#
# The server's process id is written to HOME/pid. HOME is removed when the keeper decides to end the server, never
# when the server died by itself: whoever owns it may want to look, or to start it again on the same data.
# It runs as the leader of its own process group, so `kill 0` is the server, its watcher and itself.
mode=$1 home=$2 log=$3
shift 3

exec 3<&0
"$@" </dev/null >>"$log" 2>&1 3<&- &
server=$!
echo "$server" >"$home/pid.new" && mv "$home/pid.new" "$home/pid"

finish() {
    [ -e "$home/ended" ] || kill -9 "$server"
    rm -rf "$home"
    kill -9 0
}

watch_lease() {
    idle=0
    while [ "$idle" -lt 60 ]; do
        sleep 2
        if flock --nonblock "$home/lease" true; then idle=$((idle + 2)); else idle=0; fi
    done
    # The kill happens under the lock: a user who comes now waits for it, and then finds the server gone.
    flock --nonblock "$home/lease" sh -c 'rm -f "$1"; kill -9 "$2"' keeper "$log" "$server"
}

case $mode in
    owner) (cat <&3 >/dev/null; finish) & ;;
    lease) (until watch_lease; do :; done) & ;;
esac
exec 3<&-

wait "$server"
: >"$home/ended"
[ "$mode" = owner ] || finish
wait
