// What becomes of a store that is damaged; see store_damaged.h.
#include "gateway/broker/store_damaged.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"

static char *name_of(const char *path, int copy) {
    char *name, number[16] = "";
    if (copy > 1)
        snprintf(number, sizeof number, ".%d", copy);
    return asprintf(&name, "%s.damaged%s", path, number) < 0 ? must_have(NULL) : name;
}

// The first that is free, or the last.
static char *choose_name(const char *path) {
    for (int copy = 1; copy < STORE_DAMAGED_MAX; copy++) {
        char *name = name_of(path, copy);
        if (access(name, F_OK) != 0)
            return name;
        free(name);
    }
    return name_of(path, STORE_DAMAGED_MAX);
}

// What is written ahead of the file belongs to it and takes its name.
static void rename_wal(const char *path, const char *to) {
    char *from_wal = text_format("%s-wal", path), *to_wal = text_format("%s-wal", to);
    unlink(to_wal); // of a copy that was replaced
    rename(from_wal, to_wal);
    free(from_wal);
    free(to_wal);
}

void store_damaged_set_aside(const char *path) {
    char *to = choose_name(path);
    if (rename(path, to) == 0)
        log_error("the store is damaged and was set aside as %s: messages and commands that waited in it are "
                  "not sent",
                  to);
    else
        log_error("the store %s is damaged and cannot be set aside: %s", path, strerror(errno));
    rename_wal(path, to);
    free(to);
}

void store_damaged_put_away(const char *path) {
    char *to = choose_name(path);
    if (rename(path, to) == 0)
        log_error("another file took the place of the store %s and was set aside as %s", path, to);
    rename_wal(path, to);
    free(to);
}
