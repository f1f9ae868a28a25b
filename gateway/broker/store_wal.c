// What is written ahead of the store; see store_wal.h. The format is SQLite's
// (https://sqlite.org/walformat.html): a header of 32 bytes, then frames: 24 bytes and a page. All numbers are
// big-endian. The sums of a frame go on from those of the frame before it, so that each can be checked with
// what that one says.
#include "gateway/broker/store_wal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"

#define HEADER     32
#define FRAME      24
#define MAGIC      0x377f0682 // and 1 more when the sums are of big-endian numbers
#define SALTS      8          // bytes
#define PAGE_MIN   512
#define PAGE_LARGE 65536

struct sums {
    uint32_t one, two;
};

struct reading {
    FILE *file;
    uint8_t *frame; // with its page
    uint32_t page;
    bool big_endian;
    uint8_t salts[SALTS];
    struct sums sums; // that the last header or frame has
    bool broken;      // a frame was damaged
    unsigned behind;  // frames that follow the first commit at or behind the damage
};

static uint32_t get(const uint8_t *bytes) {
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static uint32_t get_little(const uint8_t *bytes) {
    return (uint32_t)bytes[3] << 24 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[1] << 8 | bytes[0];
}

static struct sums add(struct sums sums, const uint8_t *bytes, size_t length, bool big_endian) {
    for (size_t i = 0; i < length; i += 8) {
        sums.one += (big_endian ? get(bytes + i) : get_little(bytes + i)) + sums.two;
        sums.two += (big_endian ? get(bytes + i + 4) : get_little(bytes + i + 4)) + sums.one;
    }
    return sums;
}

static bool are_equal(struct sums sums, const uint8_t *bytes) {
    return sums.one == get(bytes) && sums.two == get(bytes + 4);
}

// When it is damaged SQLite takes no frame. Returns whether there is one, and says in *well whether it can be used.
static bool read_header(struct reading *reading, bool *well) {
    uint8_t header[HEADER];
    if (fread(header, 1, HEADER, reading->file) != HEADER)
        return false;
    reading->big_endian = (get(header) & 1) != 0;
    reading->page = get(header + 8);
    memcpy(reading->salts, header + 16, SALTS);
    reading->sums = (struct sums){get(header + 24), get(header + 28)};
    *well = (get(header) | 1) == (MAGIC | 1) && reading->page >= PAGE_MIN && reading->page <= PAGE_LARGE &&
            are_equal(add((struct sums){0}, header, 24, reading->big_endian), header + 24);
    return true;
}

// Its first eight bytes count and its page, but not its salts.
static bool is_whole(struct reading *reading) {
    const uint8_t *frame = reading->frame;
    struct sums sums = add(reading->sums, frame, 8, reading->big_endian);
    bool whole = are_equal(add(sums, frame + FRAME, reading->page, reading->big_endian), frame + 16);
    reading->sums = (struct sums){get(frame + 16), get(frame + 20)};
    return whole;
}

static bool read_frame(struct reading *reading) {
    size_t length = FRAME + reading->page;
    return fread(reading->frame, 1, length, reading->file) == length;
}

// Frames of an earlier round, which have other salts, may follow.
static void take_frame(struct reading *reading, struct store_wal *wal) {
    bool ours = memcmp(reading->frame + 8, reading->salts, SALTS) == 0;
    bool whole = is_whole(reading);
    if (!ours)
        return;
    reading->behind += wal->lost > 0;
    reading->broken = reading->broken || !whole;
    if (get(reading->frame + 4) == 0)
        return;
    wal->writes++;
    wal->lost += reading->broken;
}

struct store_wal store_wal_look(const char *path) {
    struct store_wal wal = {0};
    char *name;
    if (asprintf(&name, "%s-wal", path) < 0)
        must_have(NULL);
    struct reading reading = {.file = fopen(name, "rbe")};
    free(name);
    if (reading.file == NULL)
        return wal;
    bool well = false, there = read_header(&reading, &well);
    wal.unreadable = there && !well;
    if (well) {
        reading.frame = must_have(malloc(FRAME + reading.page));
        while (read_frame(&reading))
            take_frame(&reading, &wal);
    }
    fclose(reading.file);
    free(reading.frame);
    wal.last_only = wal.lost == 1 && reading.behind == 0;
    return wal;
}

void store_wal_tell(const struct store_wal *wal, const char *path) {
    if (wal->unreadable)
        log_error("%s-wal is damaged: what was written to the store last is lost", path);
    else if (wal->last_only)
        log_warning(
            "the last write to the store %s is not whole, and is left out: it is damaged, or the power "
            "failed while it was written",
            path);
    else if (wal->lost > 0)
        log_error("%s-wal is damaged: the last %u of %u writes to the store are lost, with the messages and "
                  "commands in them",
                  path, wal->lost, wal->writes);
}
