#!/bin/sh
# End what runs of Foxden's programs in one folder, in good order, and wait for it.
#
#   stop.sh FOLDER        /usr/lib/foxden, of all users for root; or one user's folder of versions
#
# Processes are known by the file that they run: /usr/bin/foxden and ~/.local/bin/foxden are links,
# and a command line may say anything. Exit code 0 when nothing of it runs any more, else 1.
set -eu

folder=$(cd "${1:?stop.sh needs the folder of the programs}" 2>/dev/null && pwd -P) || exit 0
patience=50  # half seconds; the service gives its agent 15 s to hand over what it draws
orphans=10   # for engines whose agent is gone: they end by themselves, if they can
told=" "     # who was asked to end: once is enough
engines=" "  # PID:START of each; only their parents tell whose they are: their Python lies anywhere

# "PID PARENT START" of every process; its name, which may hold anything, ends at the last ")".
table() {
    for stat in /proc/[0-9]*/stat; do
        read -r line 2>/dev/null < "$stat" || continue  # it has just ended
        rest=${line##*") "}
        set -- $rest
        [ "$1" = Z ] || echo "${line%% *} $2 ${20}"
    done
}

# The process ids of programs in the folder, also where an update has replaced their file. Those of
# a container have the same paths and another root.
programs() {
    find /proc -mindepth 2 -maxdepth 2 -name exe -printf '%h %l\n' 2>/dev/null |
        while read -r process path; do
            case $path in
                "$folder"/*) [ ! "$process/root" -ef / ] || echo "${process#/proc/}" ;;
            esac
        done
}

# Fills in: ours, those that nothing of ours looks after (heads), and all that is to be gone (left).
look() {
    ours=" $(programs | tr '\n' ' ') "
    heads="" left=""
    known=$(table)
    while read -r pid parent start; do
        case $ours in
            *" $pid "*)
                left="$left $pid"
                case $ours in *" $parent "*) ;; *) heads="$heads $pid" ;; esac
                continue ;;
        esac
        case $ours in
            *" $parent "*)
                # Not all children: the browser that the tray has opened may be one.
                if grep -qs "foxden_agent\.engine" "/proc/$pid/cmdline"; then
                    engines="$engines$pid:$start "
                fi ;;
        esac
        case $engines in *" $pid:$start "*) left="$left $pid" ;; esac
    done <<EOF
$known
EOF
}

look
waited=0
while [ -n "$left" ] && [ $waited -lt $patience ] && [ $orphans -gt 0 ]; do
    for pid in $heads; do
        case $told in
            *" $pid "*) ;;
            *) told="$told$pid "; kill "$pid" 2>/dev/null || true ;;
        esac
    done
    sleep 0.5
    waited=$((waited + 1))
    [ "$ours" != "  " ] || orphans=$((orphans - 1))
    look
done
[ -z "$left" ] || kill -9 $left 2>/dev/null || true
for wait in 1 2 3 4 5 6 7 8 9 10; do
    [ -n "$left" ] || exit 0
    sleep 0.5
    look
done
[ -z "$left" ]
