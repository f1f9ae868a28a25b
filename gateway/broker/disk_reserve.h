// Room on the disk of the store. A store that has filled its disk needs some to be emptied: deletions are
// written too. So a file holds a part of the disk, and is given up when nothing else is left; nothing more is
// put on a disk that has no room for this file.
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct disk_reserve {
    char *beside; // the store
    char *path;   // of the reserve: PATH-reserve
    uint64_t size;
    bool held;
};

// For the store at that path, whose directory must be there. Makes nothing yet. The copies of the path are
// freed by disk_reserve_free(), which leaves the file.
void disk_reserve_init(struct disk_reserve *reserve, const char *path);
void disk_reserve_free(struct disk_reserve *reserve);

// Makes the file, unless it is there, when the disk has room for two of it. Returns whether it is there.
bool disk_reserve_hold(struct disk_reserve *reserve);
// Gives the room up. False when there was none.
bool disk_reserve_give_up(struct disk_reserve *reserve);

// Removes the file of a store that is removed.
void disk_reserve_remove(const char *path);

// Bytes that the disk has left. When that cannot be found out, as if there were enough.
uint64_t disk_reserve_room(const struct disk_reserve *reserve);
