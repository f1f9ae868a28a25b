# For recipes that need another Debian, with root's rights; to be sourced at the top of the source. A chroot is a folder, unpacked
# from build-recipes/debian/SUITE.tar, which debootstrap makes once.

# debian_root SUITE FOLDER
debian_root() {
    local tar=build-recipes/debian/$1.tar
    if [ ! -e "$tar" ]; then
        echo "== $1: getting it"
        mkdir -p build-recipes/debian "$2-new"
        debootstrap --variant=minbase "$1" "$2-new" http://deb.debian.org/debian >"$2.log" || { tail "$2.log"; return 1; }
        tar -C "$2-new" -cf "$tar.new" .
        mv "$tar.new" "$tar"
        rm -rf "$2-new"
    fi
    mkdir "$2"
    tar -C "$2" -xf "$tar"
    printf 'path-exclude=/usr/share/doc/*\npath-include=/usr/share/doc/trackbus/*\nforce-unsafe-io\n' >"$2/etc/dpkg/dpkg.cfg.d/recipe"
    # A mirror may be behind with sid, whose index is good for a week; that it is signed is looked at all the same.
    [ "$1" != sid ] || echo 'Acquire::Check-Valid-Until "false";' >"$2/etc/apt/apt.conf.d/90recipe"
    cp /etc/resolv.conf "$2/etc/"
}

# in_root FOLDER COMMAND…: with what it mounts and starts gone afterwards
in_root() {
    local root=$1
    shift
    unshare --mount --pid --fork --kill-child --mount-proc="$root/proc" \
        chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive TERM=dumb "$@"
}

# put_source FOLDER: into its /src
put_source() {
    mkdir "$1/src"
    # Not the folder itself, in which others may build meanwhile.
    find . -mindepth 1 -maxdepth 1 ! -name 'build*' ! -name .git -print0 | tar -c --null -T - | tar -x -C "$1/src"
}
