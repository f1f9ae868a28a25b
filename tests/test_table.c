// Tables that may get very large.
#include <criterion/criterion.h>
#include <stdint.h>
#include <stdlib.h>

#include "gateway/base/table.h"

#define MANY 200000

struct entry {
    int64_t id;
    UT_hash_handle hh;
};

static struct entry *table;

static void add_many(struct entry *entries) {
    for (int64_t i = 0; i < MANY; i++) {
        entries[i].id = 866425000000000 + i;
        HASH_ADD(hh, table, id, sizeof entries[i].id, &entries[i]);
    }
}

static size_t find_many(void) {
    size_t found = 0;
    for (int64_t i = 0; i < MANY; i++) {
        int64_t id = 866425000000000 + i;
        struct entry *entry;
        HASH_FIND(hh, table, &id, sizeof id, entry);
        found += entry != NULL && entry->id == id;
    }
    return found;
}

// Moving all that it has into twice as many buckets is what the loop would stand still for.
Test(table, moves_nothing_as_it_fills) {
    struct entry *entries = calloc(MANY + 1, sizeof *entries);
    struct entry *first = &entries[MANY];
    HASH_ADD(hh, table, id, sizeof first->id, first);
    unsigned buckets = table->hh.tbl->num_buckets;
    add_many(entries);
    cr_assert(table->hh.tbl->num_buckets == buckets, "%u buckets became %u", buckets,
              table->hh.tbl->num_buckets);
    cr_assert(HASH_COUNT(table) == MANY + 1 && find_many() == MANY);
    HASH_CLEAR(hh, table);
    free(entries);
}
