// Captures without IMEIs: no digit is left in any spelling, checksums are right, and the values are the same.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/cli/anonymize.h"
#include "tests/bytes.h"
#include "tests/replay.h"

#define VAN        "866425031361423"
#define LORRY      "864867022511015"
#define MADE_UP    "001000000000017"
#define MADE_UP_2  "001000000000025"
#define HEADER     "# trackbus capture\n# device Van 1\n"
#define FROM_VAN   "# from trackbus/7 channel=1 protocol=mictrack source=203.0.113.9:40112 ident=" VAN "\n"
#define FROM_LORRY "# from trackbus/8 channel=2 protocol=magicyo source=203.0.113.9:40113 ident=" LORRY "\n"

static struct capture_file *read_text(const char *text) {
    char *reason = NULL;
    struct capture_file *file = capture_file_read(text, strlen(text), &reason);
    cr_assert(file != NULL, "%s", reason);
    return file;
}

static char *text_of(const struct capture_file *file) {
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    capture_file_write(file, out);
    fclose(out);
    return text;
}

static void add_line(FILE *out, const char *direction, const char *transport, const void *bytes,
                     size_t length) {
    fprintf(out, "2026-11-26T09:00:00.123456Z %s %s ", direction, transport);
    for (size_t i = 0; i < length; i++)
        fprintf(out, "%02x", ((const uint8_t *)bytes)[i]);
    fputc('\n', out);
}

// All bytes of the file in one direction of all its connections.
static size_t gather(const struct capture_file *file, bool sent, uint8_t *bytes) {
    size_t length = 0;
    for (size_t i = 0; i < file->chunk_count; i++) {
        if (file->chunks[i].sent != sent)
            continue;
        memcpy(bytes + length, file->chunks[i].bytes, file->chunks[i].length);
        length += file->chunks[i].length;
    }
    return length;
}

static void replay_file(struct replay *replay, const struct capture_file *file, const struct codec *codec) {
    static uint8_t bytes[65536];
    replay_begin(replay, codec);
    replay_feed(replay, bytes, gather(file, false, bytes), CODEC_END);
}

// Made-up idents stand in place of the others, and everything else is as it was.
static void expect_same_lines(const struct replay *was, const struct replay *is, const char *ident,
                              const char *made_up) {
    cr_assert_eq(was->count, is->count);
    cr_assert(was->count > 0);
    for (size_t i = 0; i < was->count; i++) {
        if (strncmp(was->lines[i], "reply ", 6) == 0) // with checksums of its own
            continue;
        if (strncmp(was->lines[i], "fault ", 6) == 0) { // the reason names the checksums
            cr_expect(strncmp(is->lines[i], was->lines[i], strlen("fault 111 BAD_CHECKSUM")) == 0);
            continue;
        }
        char *at, *line = strdup(was->lines[i]);
        while ((at = strstr(line, ident)) != NULL)
            memcpy(at, made_up, strlen(made_up));
        cr_expect_str_eq(is->lines[i], line);
        free(line);
    }
}

// --- every spelling ---

#define WHOLE strtoull(VAN, NULL, 10)

// The number in `size` bytes; from the last byte on where reversed.
static void put_number(FILE *out, uint64_t number, int size, bool reversed) {
    for (int i = 0; i < size; i++)
        fputc((int)(number >> 8 * (reversed ? i : size - 1 - i) & 255), out);
}

// Two digits a byte, in that order or swapped.
static void put_packed(FILE *out, const char *digits, bool swapped) {
    for (; digits[0] != '\0'; digits += 2) {
        unsigned first = (unsigned)digits[0] & 15, second = digits[1] == 'f' ? 15 : (unsigned)digits[1] & 15;
        fputc((int)(swapped ? second << 4 | first : first << 4 | second), out);
    }
}

static void put_spellings(FILE *out) {
    fputs("text " VAN ", ", out);
    put_packed(out, "0" VAN, false);
    fputs("packed", out);
    put_packed(out, VAN "f", false);
    put_packed(out, VAN "f", true);
    put_packed(out, "0" VAN, true);
    fputs("number", out);
    put_number(out, WHOLE, 8, false);
    put_number(out, WHOLE, 8, true);
    put_number(out, WHOLE, 7, true);
    fprintf(out, "hex %llx %llX, ", (unsigned long long)WHOLE, (unsigned long long)WHOLE);
    for (const char *c = VAN; *c != '\0'; c++)
        fprintf(out, "%02x", *c);
    fputs("without its last digit 86642503136142, ", out);
    put_number(out, WHOLE / 10, 8, false);
    fputs(" the end", out);
}

// Independent of how the program looks for it: in halves of bytes, whatever stands where.
static void expect_none_left(const struct capture_file *file) {
    static uint8_t bytes[65536];
    static char halves[4 * sizeof bytes];
    size_t length = gather(file, false, bytes);
    char text[64], number[32], short_number[32];
    snprintf(number, sizeof number, "%llx", (unsigned long long)WHOLE);
    snprintf(short_number, sizeof short_number, "%llx", (unsigned long long)WHOLE / 10);
    for (int way = 0; way < 3; way++) {
        for (size_t i = 0; i < length; i++) {
            uint8_t byte = way == 2 ? bytes[length - 1 - i] : bytes[i];
            snprintf(halves + 2 * i, 3, "%02x", way == 1 ? (uint8_t)(byte << 4 | byte >> 4) : byte);
        }
        cr_expect_null(strstr(halves, "86642503136142"), "way %d", way);
        cr_expect_null(strstr(halves, number), "way %d", way);
        cr_expect_null(strstr(halves, short_number), "way %d", way);
        for (size_t i = 0; i < 14; i++)
            snprintf(text + 2 * i, 3, "%02x", VAN[i]);
        cr_expect_null(strstr(halves, text), "way %d", way);
    }
}

Test(anonymize, leaves_no_spelling_of_an_imei) {
    char *spelt = NULL, *text = NULL;
    size_t spelt_length, length;
    FILE *out = open_memstream(&spelt, &spelt_length);
    put_spellings(out);
    fclose(out);
    out = open_memstream(&text, &length);
    fputs(HEADER FROM_VAN, out);
    add_line(out, "recv", "tcp", spelt, spelt_length);
    for (size_t i = 0; i < spelt_length; i++) // also when it is cut anywhere
        add_line(out, "recv", "tcp", spelt + i, 1);
    fclose(out);
    struct capture_file *file = read_text(text);
    cr_assert_null(anonymize(file));
    expect_none_left(file);
    char *after = text_of(file);
    cr_expect_null(strstr(after, VAN));
    cr_expect_null(strstr(after, "203.0.113.9"));
    cr_expect_null(strstr(after, "Van 1"));
    cr_expect(strstr(after, "ident=" MADE_UP) != NULL, "%s", after);
    static uint8_t bytes[65536];
    cr_expect_eq(gather(file, false, bytes), 2 * spelt_length);
    cr_expect(memcmp(bytes, "text " MADE_UP ", \x00\x01", 23) == 0);
    cr_expect(memmem(bytes, spelt_length, "number\x00\x00\x00\xe8", 10) != NULL, "as a number");
    capture_file_free(file);
    free(after);
    free(text);
    free(spelt);
}

// What is left of one where bytes are missing, an IMEI of another device, and one that nobody has named.
Test(anonymize, finds_pieces_and_others) {
    static const char piece[] = "31361423;R0;x 867035041390699 \r\n86642503";
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    fputs(HEADER FROM_VAN "# at 100\n", out);
    add_line(out, "recv", "tcp", piece, sizeof piece - 1);
    fclose(out);
    struct capture_file *file = read_text(text);
    cr_assert_null(anonymize(file));
    static uint8_t bytes[4096];
    size_t size = gather(file, false, bytes);
    bytes[size] = '\0';
    cr_expect_str_eq((char *)bytes, "00000017;R0;x " MADE_UP_2 " \r\n00100000");
    capture_file_free(file);
    free(text);
}

// What is cut off in packed digits, from either half of a byte on.
Test(anonymize, finds_pieces_of_packed_digits) {
    static const uint8_t end[] = {0x01, 0x02, 0x08, 0x66, 0x42, 0x50, 0x31, 0x36, 0x14};
    static const uint8_t middle[] = {0x25, 0x03, 0x13, 0x61, 0x42, 0x3f, 0x01};
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    fputs(HEADER FROM_VAN "# at 100\n", out);
    add_line(out, "recv", "tcp", middle, sizeof middle);
    add_line(out, "recv", "tcp", end, sizeof end);
    fclose(out);
    struct capture_file *file = read_text(text);
    cr_assert_null(anonymize(file));
    uint8_t bytes[64];
    cr_assert_eq(gather(file, false, bytes), sizeof middle + sizeof end);
    cr_expect(memcmp(bytes, "\x00\x00\x00\x00\x01\x7f\x01", 7) == 0);
    cr_expect(memcmp(bytes + 7, "\x01\x02\x00\x01\x00\x00\x00\x00\x00", 9) == 0);
    capture_file_free(file);
    free(text);
}

#define FROM_STRANGER "# from a/1 protocol=magicyo source=203.0.113.9:1\n"

// Of a connection that has not said who it is nothing tells where an IMEI stands.
Test(anonymize, finds_what_looks_like_an_imei_in_what_nobody_understands) {
    static const char *const texts[] = {"\x55\x55"
                                        "\x30"
                                        "5" VAN "\xc1",
                                        "##,imei:358888012345671,A;", "id9" VAN ";"};
    static const uint8_t login[] = {0x78, 0x78, 0x0d, 0x01, 0x03, 0x59, 0x50,
                                    0x00, 0x12, 0x34, 0x56, 0x70, 0x00, 0x01};
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    fputs(HEADER FROM_STRANGER, out);
    for (size_t i = 0; i < 3; i++)
        add_line(out, "recv", "tcp", texts[i], strlen(texts[i]));
    add_line(out, "recv", "tcp", login, sizeof login);
    fclose(out);
    struct capture_file *file = read_text(text);
    char *said = anonymize(file);
    cr_assert_str_eq(
        said,
        "1 connection never said who it is: read the bytes before you give them away, an IMEI in them may "
        "not have been found");
    uint8_t bytes[256];
    size_t size = gather(file, false, bytes);
    cr_expect_null(memmem(bytes, size, VAN, 15));
    cr_expect_null(memmem(bytes, size, "358888012345671", 15));
    cr_expect_null(memmem(bytes, size, login + 5, 7), "packed digits");
    cr_expect(memcmp(bytes + size - sizeof login, login, 4) == 0, "what is no IMEI stays");
    capture_file_free(file);
    free(said);
    free(text);
}

// --- real frames ---

Test(anonymize, text_reports_say_the_same) {
    static const char report[] = "MT;6;" VAN ";R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113\r\n"
                                 "mode=Success!\r\n";
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    fputs(HEADER FROM_VAN, out);
    for (size_t i = 0; i < sizeof report - 1; i += 3)
        add_line(out, "recv", "tcp", report + i, i + 3 < sizeof report ? 3 : sizeof report - 1 - i);
    fclose(out);
    struct capture_file *was = read_text(text), *is = read_text(text);
    cr_assert_null(anonymize(is));
    struct replay before, after;
    replay_file(&before, was, codec_find("mictrack"));
    replay_file(&after, is, codec_find("mictrack"));
    cr_assert_eq(before.count, 2);
    expect_same_lines(&before, &after, VAN, MADE_UP);
    expect_none_left(is);
    replay_end(&before);
    replay_end(&after);
    capture_file_free(was);
    capture_file_free(is);
    free(text);
}

// Both directions, over TCP cut in pieces and over UDP, with a frame whose checksum is wrong, which stays wrong.
// channel: the protocol of the channel that the device came to.
static void check_magicyo(const char *channel, const char *transport, size_t cut) {
    static const uint8_t position[] = {4,    0,    1,    0x5c, 0x35, 0xbc, 0x3b, 0x1a, 0,
                                       0xf6, 0xad, 0xfe, 0xaa, 0x22, 0x8b, 0x13, 2,    0xdb,
                                       0x0f, 0,    0xf0, 9,    0,    0xc0, 0,    0,    5};
    uint8_t frames[3][256], answer[256];
    char *text = NULL;
    size_t length, sizes[3];
    FILE *out = open_memstream(&text, &length);
    sizes[0] = bytes_magicyo(frames[0], LORRY, 3, 1, position, sizeof position);
    sizes[1] = bytes_magicyo(frames[1], LORRY, 0x0c, 2, "", 0);
    sizes[2] = bytes_magicyo(frames[2], LORRY, 0x0c, 3, "", 0);
    frames[2][sizes[2] - 3] ^= 1;
    size_t answer_size = bytes_magicyo(answer, LORRY, 0x0d, 2, "", 0);
    fprintf(out, HEADER "# from trackbus/8 channel=2 protocol=%s source=203.0.113.9:40113 ident=" LORRY "\n",
            channel);
    for (size_t i = 0; i < 3; i++)
        for (size_t at = 0; at < sizes[i]; at += cut)
            add_line(out, "recv", transport, frames[i] + at, at + cut < sizes[i] ? cut : sizes[i] - at);
    add_line(out, "send", transport, answer, answer_size);
    fclose(out);
    struct capture_file *was = read_text(text), *is = read_text(text);
    cr_assert_null(anonymize(is));
    struct replay before, after;
    replay_file(&before, was, codec_find("magicyo"));
    replay_file(&after, is, codec_find("magicyo"));
    expect_same_lines(&before, &after, LORRY, MADE_UP);
    cr_assert(strncmp(before.lines[before.count - 1], "fault", 5) == 0);
    uint8_t bytes[256], right[256];
    cr_assert_eq(gather(is, true, bytes), answer_size);
    bytes_magicyo(right, MADE_UP, 0x0d, 2, "", 0);
    cr_expect(memcmp(bytes, right, answer_size) == 0, "the checksum of what was sent");
    replay_end(&before);
    replay_end(&after);
    capture_file_free(was);
    capture_file_free(is);
    free(text);
}

Test(anonymize, frames_with_checksums_say_the_same) {
    check_magicyo("magicyo", "tcp", 256);
    check_magicyo("magicyo", "tcp", 7);
    check_magicyo("magicyo", "udp", 256);
    check_magicyo("mictrack", "tcp", 256);
}

// --- what cannot be told from other bytes ---

#define FROM_SHORT "# from a/1 protocol=mictrack source=203.0.113.9:1 ident=12345\n"

// The others of a capture that took an hour are not lost with it.
Test(anonymize, leaves_out_connections_whose_ident_is_too_short) {
    struct capture_file *file = read_text(
        HEADER FROM_SHORT "1700000000 recv tcp 3132333435\n" FROM_VAN "1700000001 recv tcp 4d54\n" FROM_SHORT
                          "1700000002 recv tcp 313233\n" FROM_LORRY "1700000003 send tcp 5555\n");
    char *left_out = anonymize(file), *after = text_of(file);
    cr_assert_str_eq(left_out, "1 connection is left out, because the ident '12345' is too short to be told "
                               "from other bytes");
    cr_expect_eq(file->connection_count, 2);
    cr_expect_eq(file->chunk_count, 2);
    cr_expect_null(strstr(after, "12345"), "%s", after);
    cr_expect_not_null(strstr(after, "ident=" MADE_UP "\n2023-11-14T22:13:21.000000Z recv tcp 4d54"), "%s",
                       after);
    cr_expect_not_null(strstr(after, "ident=" MADE_UP_2 "\n2023-11-14T22:13:23.000000Z send tcp 5555"), "%s",
                       after);
    free(left_out);
    free(after);
    capture_file_free(file);
}

// --- many devices ---

#define DEVICES 1000
#define ROUNDS  8

static void add_report(struct capture_file *file, size_t connection, int number) {
    char text[128];
    int length =
        snprintf(text, sizeof text,
                 "MT;6;8664250%08d;R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113\r\n", number);
    struct capture_chunk chunk = {
        .connection = connection, .bytes = (uint8_t *)strdup(text), .length = (size_t)length, .time = 1};
    chunk.offset = file->connections[connection].next[0];
    capture_file_add(file, chunk);
}

static struct capture_file *busy_channel(void) {
    struct capture_file *file = capture_file_new();
    for (int i = 0; i < DEVICES * ROUNDS; i++) {
        char label[16];
        snprintf(label, sizeof label, "g/%d", i % DEVICES);
        size_t place = capture_file_connection(file, label, i % 2 == 1);
        struct capture_connection *connection = &file->connections[place];
        connection->codec = codec_find("mictrack");
        snprintf(connection->ident, sizeof connection->ident, "8664250%08d", i % DEVICES * 7);
        add_report(file, place, i % DEVICES * 7);
    }
    return file;
}

// A channel's hour. In time of the processor, which a machine that stands still does not take.
Test(anonymize, many_devices_take_no_longer_than_their_bytes, .timeout = 120) {
    struct capture_file *file = busy_channel();
    clock_t begun = clock();
    cr_assert_null(anonymize(file));
    double took = (double)(clock() - begun) / CLOCKS_PER_SEC;
    for (size_t i = 0; i < file->chunk_count; i++) {
        const struct capture_chunk *chunk = &file->chunks[i];
        const char *ident = file->connections[chunk->connection].ident;
        cr_assert(strncmp(ident, "0010000000", 10) == 0, "%s", ident);
        cr_assert(memcmp(chunk->bytes + strlen("MT;6;"), ident, 15) == 0, "chunk %zu of %s", i, ident);
    }
    cr_assert(took < 15, "%.1f s", took);
    capture_file_free(file);
}

// --- the format ---

Test(anonymize, a_file_that_was_read_is_written_the_same) {
    static const char text[] =
        HEADER FROM_VAN "2026-11-26T09:00:00.123456Z recv tcp 4d54\n"
                        "2026-11-26T09:00:01.000000Z send tcp 6d\n" FROM_LORRY "# at 17\n"
                        "2026-11-26T09:00:01.500000Z recv tcp 5555\n" FROM_VAN "# at 5\n"
                        "2026-11-26T09:00:02.000000Z recv tcp 3b\n";
    struct capture_file *file = read_text(text);
    file->title = strdup("device Van 1");
    char *written = text_of(file);
    cr_assert_str_eq(written, text);
    free(written);
    capture_file_free(file);
}

Test(anonymize, a_line_with_a_nul_is_named) {
    static const char text[] = HEADER "1700000000 recv tcp 31\0"
                                      "32\n1700000001 recv tcp 33\n";
    char *reason = NULL;
    cr_assert_null(capture_file_read(text, sizeof text - 1, &reason));
    cr_expect_str_eq(reason, "line 3: has a NUL byte");
    free(reason);
}

Test(anonymize, a_line_that_is_none_is_named) {
    static const char *const lines[][2] = {
        {"1700000000 recv tcp", "line 2: expected four words"},
        {"1700000000 recv tcp 4d 54", "line 2: expected four words"},
        {"1700000000 sent tcp 4d", "line 2: expected four words"},
        {"yesterday recv tcp 4d", "line 2: expected a time"},
        {"2026-02-30T09:00:00Z recv tcp 4d", "line 2: expected a time"},
        {"1700000000 recv tcp 4", "line 2: expected hexadecimal digits"},
        {"1700000000 recv tcp 4x", "line 2: expected hexadecimal digits"},
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        char text[128], *reason = NULL;
        snprintf(text, sizeof text, "# trackbus capture\n%s\n", lines[i][0]);
        cr_assert_null(capture_file_read(text, strlen(text), &reason));
        cr_expect(strncmp(reason, lines[i][1], strlen(lines[i][1])) == 0, "%s", reason);
        free(reason);
    }
}
