// How many rows a table of the store holds and how many bytes they have, without reading them: triggers keep
// both in the table "sums", in the transactions that change the rows. So they hold after a crash, and
// whichever version or tool writes the file.
#pragma once

#include <sqlite3.h>
#include <stdint.h>

struct store_sum {
    int64_t count, bytes; // bytes of topics, payloads and correlation data
};

// Begins to keep the sums of the messages, and of what is set aside where there is any, in a transaction of
// its own. Does nothing when they are kept already. Those of messages that an earlier version wrote begin as
// estimates, see store_sums_read(). SQLITE_OK, or what went wrong.
int store_sums_add(sqlite3 *database);

// The same for a table that has just been made, in the transaction that made it.
int store_sums_keep(sqlite3 *database, const char *table);

// Of a table of messages. When its sums are not kept yet, they are estimated for "messages", in a time that
// does not depend on how many there are: by their numbers and the pages of the file, never less than there
// is. Others are counted. All 0 when the table is empty or not there.
struct store_sum store_sums_read(sqlite3 *database, const char *table);

// The table "messages" is empty: what was estimated is known now.
int store_sums_reset(sqlite3 *database);

// The first column of the first row; 0 without one, or when that cannot be read.
int64_t store_read_number(sqlite3 *database, const char *query);
