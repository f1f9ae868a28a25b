// Room on the disk of the store; see disk_reserve.h.
#include "gateway/broker/disk_reserve.h"

#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "gateway/base/memory.h"

// More than is ever written ahead of the file (4 MiB and a transaction), which must get into the file before
// anything can be deleted. On a small disk less is written ahead; see store.c.
#define SIZE_MOST (8U << 20)
#define PART      8 // of the disk, where that is less

static bool look_at_disk(const struct disk_reserve *reserve, struct statvfs *disk) {
    if (statvfs(reserve->beside, disk) == 0)
        return true;
    char *copy = must_have(strdup(reserve->beside)); // before there is a store
    bool seen = statvfs(dirname(copy), disk) == 0;
    free(copy);
    return seen;
}

void disk_reserve_init(struct disk_reserve *reserve, const char *path) {
    struct statvfs disk;
    *reserve = (struct disk_reserve){.beside = must_have(strdup(path)), .size = SIZE_MOST};
    if (asprintf(&reserve->path, "%s-reserve", path) < 0)
        must_have(NULL);
    if (!look_at_disk(reserve, &disk))
        return;
    uint64_t part = (uint64_t)disk.f_blocks * disk.f_frsize / PART;
    if (part > 0 && part < SIZE_MOST)
        reserve->size = part;
}

void disk_reserve_free(struct disk_reserve *reserve) {
    free(reserve->beside);
    free(reserve->path);
}

uint64_t disk_reserve_room(const struct disk_reserve *reserve) {
    struct statvfs disk;
    return look_at_disk(reserve, &disk) ? (uint64_t)disk.f_bavail * disk.f_frsize : UINT64_MAX;
}

// From an earlier run.
static bool is_there(const struct disk_reserve *reserve) {
    struct stat status;
    return stat(reserve->path, &status) == 0 && (uint64_t)status.st_size >= reserve->size;
}

static bool make(const struct disk_reserve *reserve) {
    int file = open(reserve->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0)
        return false;
    bool made = posix_fallocate(file, 0, (off_t)reserve->size) == 0;
    close(file);
    if (!made)
        unlink(reserve->path);
    return made;
}

bool disk_reserve_hold(struct disk_reserve *reserve) {
    if (!reserve->held)
        reserve->held =
            is_there(reserve) || (disk_reserve_room(reserve) / 2 >= reserve->size && make(reserve));
    return reserve->held;
}

bool disk_reserve_give_up(struct disk_reserve *reserve) {
    reserve->held = false;
    return unlink(reserve->path) == 0;
}

void disk_reserve_remove(const char *path) {
    struct disk_reserve reserve;
    disk_reserve_init(&reserve, path);
    disk_reserve_give_up(&reserve);
    disk_reserve_free(&reserve);
}
