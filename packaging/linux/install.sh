#!/bin/sh
# Install Foxden for the user who runs this. No root, no package manager.
#
#   tar -xf foxden-VERSION-linux-x86_64.tar.xz && ./foxden/install.sh [--join LINK [--yes] [--fetch-engine]] [--no-start]
#
# With --join - --yes the link comes by standard input, and stands in no list of processes.
#
# What goes where:
#   ~/.local/share/foxden/program    the program; versions beside one another, for updates
#   ~/.local/bin/foxden              a link to it
#   ~/.config/systemd/user           its unit; ~/.config/autostart tells it of the screen, or starts it
#                                    where no systemd session runs
#   ~/.local/share/applications, …/icons   the menu entry and its icon
# Everything else that Foxden writes goes under ~/.local/share/foxden. uninstall.sh takes it away.
set -eu

fail() { echo "install: $1" >&2; exit 1; }

here=$(cd "$(dirname "$0")" && pwd)
join=""
yes=""  # agree to the pool's terms: for scripts
fetch=""  # let the agent fetch its engine unasked: for PCs where nobody sits
joined=yes
start=yes
while [ $# -gt 0 ]; do
    case $1 in
        --join) [ $# -gt 1 ] || fail "--join needs the link you were given"; join=$2; shift 2 ;;
        --yes) yes=--yes; shift ;;
        --fetch-engine) fetch=--fetch-engine; shift ;;
        --no-start) start=no; shift ;;
        *) fail "unknown option $1: there are --join LINK, --yes, --fetch-engine and --no-start" ;;
    esac
done
[ "$(id -u)" != 0 ] || fail "run this as the user who uses the PC, not as root (the .deb is for that)"
[ -n "${HOME:-}" ] && [ -d "$HOME" ] || fail "HOME is no folder: set it to yours"

data=${XDG_DATA_HOME:-$HOME/.local/share}
config=${XDG_CONFIG_HOME:-$HOME/.config}
bin=$HOME/.local/bin
program=$data/foxden/program
version=$("$here/foxden" --version) || fail "the program does not start on this system (it needs glibc 2.36 or newer)"

# What runs of a version that is there: through systemd, which would start it again in the middle.
systemctl --user stop foxden.service >/dev/null 2>&1 || true
[ ! -d "$program" ] || "$here/stop.sh" "$program" || true
mkdir -p "$config/autostart" "$program/versions" "$bin" "$data/applications" "$data/icons/hicolor/256x256/apps"
rm -rf "$program/versions/.new-$version"
cp -R "$here" "$program/versions/.new-$version" || fail "the disk is full, or $program cannot be written"
rm -rf "$program/versions/$version"
mv "$program/versions/.new-$version" "$program/versions/$version"
ln -s "versions/$version" "$program/.current-$$"
mv -T "$program/.current-$$" "$program/current"
foxden=$program/current/foxden
ln -sfn "$foxden" "$bin/foxden"
cp "$here/share/foxden.png" "$data/icons/hicolor/256x256/apps/foxden.png"
sed "s|@FOXDEN@|$foxden|g" "$here/share/foxden.desktop" > "$data/applications/foxden.desktop"

if systemctl --user show-environment >/dev/null 2>&1; then
    mkdir -p "$config/systemd/user"
    sed "s|@FOXDEN@|$foxden|" "$here/share/foxden.service" > "$config/systemd/user/foxden.service"
    systemctl --user daemon-reload
    systemctl --user enable --quiet foxden.service
    cp "$here/share/foxden-screen.desktop" "$config/autostart/foxden.desktop"
    how="the user unit foxden.service"
else
    cp "$data/applications/foxden.desktop" "$config/autostart/foxden.desktop"
    how="autostart at the next login (no systemd user session runs here)"
fi
echo "Foxden $version is installed; it is started by $how."
case :$PATH: in
    *:"$bin":*) ;;
    *) echo "Add $bin to your PATH, or call $bin/foxden." ;;
esac
if [ -n "$join" ]; then
    "$foxden" join "$join" $yes $fetch || joined=no
fi
if [ "$start" = yes ] && [ -f "$config/systemd/user/foxden.service" ]; then
    if [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
        systemctl --user import-environment DISPLAY WAYLAND_DISPLAY XAUTHORITY 2>/dev/null || true
    fi
    systemctl --user restart foxden.service
fi
[ -n "$fetch" ] || echo "Next: foxden engine install shows what it would download, and asks."
[ "$joined" = yes ] || exit 3  # installed, but not joined; the page can be given a link
