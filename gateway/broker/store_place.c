// Whether the store's file still stands where it was opened; see store_place.h.
#include "gateway/broker/store_place.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/broker/store_damaged.h"

static char *beside(const char *path, const char *suffix) {
    char *name;
    return asprintf(&name, "%s%s", path, suffix) < 0 ? must_have(NULL) : name;
}

// False when there is none.
static bool look_at_wal(const char *path, struct stat *status) {
    char *wal = beside(path, "-wal");
    bool there = stat(wal, status) == 0;
    free(wal);
    return there;
}

// 0 when there is none.
static ino_t inode_of_wal(const char *path) {
    struct stat status;
    return look_at_wal(path, &status) ? status.st_ino : 0;
}

void store_place_note(struct store_place *place, const char *path) {
    struct stat status;
    *place = (struct store_place){0};
    if (stat(path, &status) != 0)
        return;
    *place = (struct store_place){.device = status.st_dev, .inode = status.st_ino, .wal = inode_of_wal(path)};
    store_place_note_sizes(place, path);
}

void store_place_note_sizes(struct store_place *place, const char *path) {
    struct stat status;
    place->size = stat(path, &status) == 0 ? status.st_size : 0;
    place->wal_size = look_at_wal(path, &status) ? status.st_size : 0;
}

bool store_place_is_cut(const struct store_place *place, const char *path) {
    struct stat status;
    if (place->inode == 0 || store_place_is_lost(place, path))
        return false;
    return (stat(path, &status) == 0 && status.st_size < place->size) ||
           (look_at_wal(path, &status) && status.st_size < place->wal_size);
}

// A file that cannot be looked at is not gone.
static bool is_file_lost(const struct store_place *place, const char *path) {
    struct stat status;
    if (stat(path, &status) != 0)
        return errno == ENOENT || errno == ENOTDIR;
    return status.st_dev != place->device || status.st_ino != place->inode;
}

bool store_place_is_lost(const struct store_place *place, const char *path) {
    if (place->inode == 0)
        return false;
    return is_file_lost(place, path) || (place->wal != 0 && inode_of_wal(path) != place->wal);
}

static int sync_file(const char *path, int flags) {
    int file = open(path, flags | O_CLOEXEC);
    bool synced = file >= 0 && fsync(file) == 0;
    if (file >= 0)
        close(file);
    return synced ? SQLITE_OK : SQLITE_IOERR_FSYNC;
}

static int sync_directory_of(const char *path) {
    char *copy = must_have(strdup(path));
    int result = sync_file(dirname(copy), O_RDONLY | O_DIRECTORY);
    free(copy);
    return result;
}

// SQLite writes into an empty file, which is for its owner alone, and does not wait for the disk.
static int write_copy(sqlite3 *database, const char *to) {
    int file = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0)
        return SQLITE_CANTOPEN;
    close(file);
    char *text = sqlite3_mprintf("VACUUM INTO %Q", to);
    int result = sqlite3_exec(database, must_have(text), NULL, NULL, NULL);
    sqlite3_free(text);
    return result == SQLITE_OK ? sync_file(to, O_RDONLY) : result;
}

// What was written ahead of the old file, or of another, must not meet the new one.
static int put_in_place(const char *copy, const char *path) {
    if (access(path, F_OK) == 0)
        store_damaged_put_away(path);
    char *wal = beside(path, "-wal");
    unlink(wal);
    free(wal);
    if (rename(copy, path) != 0)
        return SQLITE_CANTOPEN;
    return sync_directory_of(path);
}

static int write_anew(sqlite3 *database, const char *path) {
    char *copy = beside(path, "-new");
    int result = write_copy(database, copy);
    if (result == SQLITE_OK)
        result = put_in_place(copy, path);
    if (result != SQLITE_OK)
        unlink(copy);
    free(copy);
    return result;
}

int store_place_restore(const struct store_place *place, sqlite3 *database, const char *path) {
    bool gone = is_file_lost(place, path);
    int result = gone ? write_anew(database, path)
                      : sqlite3_exec(database, "PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL);
    if (result == SQLITE_OK)
        log_error("the file %s%s was deleted or replaced while the store was in use; all that was in it was "
                  "written again",
                  path, gone ? "" : "-wal");
    return result;
}
