// What SQLite writes ahead of the store's file (-wal), looked at before it is opened: SQLite takes it up to
// the first damaged byte, and says nothing of what came after that.
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct store_wal {
    unsigned writes; // transactions that were committed
    unsigned lost;   // of them those that SQLite will not take
    bool last_only;  // only the last one: it may be that the power failed while it was written
    bool unreadable; // its beginning is damaged: SQLite takes nothing, and how much there was is not known
};

// Of the store at path. All 0 when there is nothing.
struct store_wal store_wal_look(const char *path);

// Logs what is lost, if anything is.
void store_wal_tell(const struct store_wal *wal, const char *path);
