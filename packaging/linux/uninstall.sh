#!/bin/sh
# Take Foxden away again, for the user who runs this.
#
#   ~/.local/share/foxden/program/current/uninstall.sh [--purge | --keep]
#   /usr/lib/foxden/uninstall.sh --purge        of the .deb: what one user has; then apt remove foxden
#
# The program, its links, unit and menu entry always go. --purge also removes what it wrote: the
# home folder with models, logs, settings and the engine with its downloads, and this PC's key in
# the keyring. Without either option it asks, and keeps them where nobody can answer.
set -eu

purge=ask
case ${1:-} in
    --purge) purge=yes ;;
    --keep) purge=no ;;
    "") ;;
    *) echo "uninstall: unknown option $1: there are --purge and --keep" >&2; exit 2 ;;
esac
data=${XDG_DATA_HOME:-$HOME/.local/share}
config=${XDG_CONFIG_HOME:-$HOME/.config}
home=${FOXDEN_HOME:-$data/foxden}
program=$data/foxden/program
here=$(cd "$(dirname "$0")" && pwd)
foxden=$here/foxden

case ${home%/} in
    "" | "${HOME%/}")
        echo "uninstall: FOXDEN_HOME is $home, which holds more than Foxden: remove it by hand." >&2
        purge=no ;;
esac

if [ $purge = ask ] && [ -t 0 ]; then
    printf 'Remove models, logs, settings and the engine in %s too? [y/N] ' "$home"
    read -r answer
    case $answer in y* | Y*) purge=yes ;; esac
fi

# Stopped first: nothing may write while it goes.
if systemctl --user show-environment >/dev/null 2>&1; then
    systemctl --user disable --quiet --now foxden.service 2>/dev/null || true
fi
rm -f "$config/systemd/user/foxden.service" "$config/systemd/user/default.target.wants/foxden.service"
if command -v systemctl >/dev/null; then
    systemctl --user daemon-reload >/dev/null 2>&1 || true
fi
rm -f "$config/autostart/foxden.desktop" "$data/applications/foxden.desktop" \
    "$data/icons/hicolor/256x256/apps/foxden.png" "$HOME/.local/bin/foxden"
# What still runs of it: the service stops its agent, and that its engine.
"$here/stop.sh" "$program" || true
[ "$here" != /usr/lib/foxden ] || "$here/stop.sh" "$here" || true
if [ $purge = yes ] && [ -x "$foxden" ]; then
    # Leaves the pools (their brokers hear of it) and takes the keys out of the keyring. Without a
    # network the broker is not told; the keys go all the same.
    "$foxden" leave --all --home "$home" >/dev/null || true
fi
rm -rf "$program"
if [ $purge = yes ]; then
    rm -rf "$home" "$config/foxden"
    echo "Foxden and everything it wrote are gone."
else
    echo "Foxden is gone. Models, logs and settings are still in $home; --purge removes them."
fi
# Folders that may have been made for it, where they are empty now.
for folder in "$data/foxden" "$config/systemd/user/default.target.wants" "$config/systemd/user" \
    "$config/systemd" "$config/autostart" "$data/icons/hicolor/256x256/apps" \
    "$data/icons/hicolor/256x256" "$data/icons/hicolor" "$data/icons" "$data/applications" \
    "$HOME/.local/bin" "$data" "$HOME/.local" "$config"; do
    rmdir "$folder" 2>/dev/null || true
done
