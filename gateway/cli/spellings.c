// How idents are spelt in bytes; see spellings.h.
//
// There may be thousands of idents and hours of bytes. So at each place of the bytes a spelling is looked up by what
// stands there, in tables, one look for each length that there is.
#include "gateway/cli/spellings.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "codecs/codec.h"
#include "gateway/base/hex.h"
#include "gateway/base/memory.h"

#define IMEI_DIGITS   15
#define NUMBER_MIN    6 // hexadecimal digits of a number that is not found by accident
#define PIECE_MIN     4 // bytes of a spelling that is cut off where bytes are missing
#define SPELLING_MAX  (4 * CODEC_IDENT_MAX)
#define SPELLINGS_MAX 32
#define FILTER_BITS   20

struct spelling {
    size_t length;
    bool in_halves; // stands in halves of bytes, one in each element
    uint8_t was[SPELLING_MAX], is[SPELLING_MAX];
    UT_hash_handle hh; // by was
};

struct identity {
    char was[CODEC_IDENT_MAX + 1], is[CODEC_IDENT_MAX + 1];
    struct spelling spellings[SPELLINGS_MAX];
    size_t count;
    UT_hash_handle hh; // by was
};

// Spellings by what they were. The filter tells at once of most places that none begins there.
struct table {
    struct spelling *by_bytes;
    bool lengths[SPELLING_MAX + 1];
    uint8_t filter[(1U << FILTER_BITS) / 8];
};

// Four bytes in a row of a spelling, from which on or up to which it may be cut off.
struct gram {
    uint32_t bytes;
    size_t at;
    const struct spelling *spelling;
};

struct spellings {
    struct identity *identities;
    struct table whole, halves;
    struct grams {
        struct gram *all; // sorted by their bytes
        size_t count;
    } whole_grams, half_grams;
};

// --- made-up idents ---

static bool is_number(const char *text) {
    return *text != '\0' && strspn(text, "0123456789") == strlen(text);
}

// The last digit of an IMEI makes this a multiple of 10.
static unsigned luhn(const char *digits, size_t count) {
    unsigned sum = 0;
    for (size_t i = 0; i < count; i++) {
        unsigned digit = (unsigned)(digits[count - 1 - i] - '0') * (i % 2 == 1 ? 2 : 1);
        sum += digit > 9 ? digit - 9 : digit;
    }
    return sum % 10;
}

// 00 1… are the numbers of test devices.
static void make_up_imei(char *text, unsigned number) {
    snprintf(text, CODEC_IDENT_MAX + 1, "001%011u0", number);
    text[IMEI_DIGITS - 1] = (char)('0' + (10 - luhn(text, IMEI_DIGITS)) % 10);
}

// Letters become x and digits 0, the last ones the number.
static void make_up(const char *was, char *text, unsigned number) {
    size_t length = strlen(was);
    if (is_number(was) && length == IMEI_DIGITS) {
        make_up_imei(text, number);
        return;
    }
    strcpy(text, was);
    for (size_t i = length; i-- > 0;) {
        bool digit = isdigit((unsigned char)was[i]), letter = isalpha((unsigned char)was[i]);
        text[i] = digit ? (char)('0' + number % 10) : letter ? 'x' : was[i];
        number = digit ? number / 10 : number;
    }
}

// --- spellings ---

static void add_spelling(struct identity *identity, const void *was, const void *is, size_t length,
                         bool in_halves) {
    struct spelling *spelling = &identity->spellings[identity->count++];
    spelling->length = length;
    spelling->in_halves = in_halves;
    memcpy(spelling->was, was, length);
    memcpy(spelling->is, is, length);
}

static void hex_of(const void *bytes, size_t length, bool upper, char *text) {
    hex_write(bytes, length, text);
    for (char *c = text; upper && *c != '\0'; c++)
        *c = (char)toupper((unsigned char)*c);
}

// As bytes, and as the hexadecimal digits of these, which may stand as text.
static void add_bytes(struct identity *identity, const void *was, const void *is, size_t length) {
    char was_hex[SPELLING_MAX + 1], is_hex[SPELLING_MAX + 1];
    add_spelling(identity, was, is, length, false);
    for (int upper = 0; upper < 2; upper++) {
        hex_of(was, length, upper == 1, was_hex);
        hex_of(is, length, upper == 1, is_hex);
        add_spelling(identity, was_hex, is_hex, 2 * length, false);
    }
}

// A digit in each half of a byte, from either half on; swapped: the second digit stands in the first half.
static void add_halves(struct identity *identity, const char *was, const char *is, size_t length) {
    uint8_t was_halves[SPELLING_MAX], is_halves[SPELLING_MAX];
    for (size_t i = 0; i < length; i++) {
        was_halves[i] = (uint8_t)hex_digit(was[i]);
        is_halves[i] = (uint8_t)hex_digit(is[i]);
    }
    add_spelling(identity, was_halves, is_halves, length, true);
}

static void reverse(uint8_t *bytes, size_t length) {
    for (size_t i = 0; i < length / 2; i++) {
        uint8_t byte = bytes[i];
        bytes[i] = bytes[length - 1 - i];
        bytes[length - 1 - i] = byte;
    }
}

// A number of so many bytes, its last byte at the end or at the beginning.
static void add_number(struct identity *identity, uint64_t was, uint64_t is) {
    uint8_t was_bytes[8], is_bytes[8];
    char was_digits[17], is_digits[17];
    snprintf(was_digits, sizeof was_digits, "%" PRIx64, was);
    size_t digits = strlen(was_digits), length = (digits + 1) / 2;
    if (digits < NUMBER_MIN)
        return;
    snprintf(is_digits, sizeof is_digits, "%0*" PRIx64, (int)digits, is);
    add_halves(identity, was_digits, is_digits, digits);
    add_spelling(identity, was_digits, is_digits, digits, false);
    for (size_t i = 0; i < digits; i++) {
        was_digits[i] = (char)toupper((unsigned char)was_digits[i]);
        is_digits[i] = (char)toupper((unsigned char)is_digits[i]);
    }
    add_spelling(identity, was_digits, is_digits, digits, false);
    for (size_t i = 0; i < length; i++) {
        was_bytes[i] = (uint8_t)(was >> 8 * i);
        is_bytes[i] = (uint8_t)(is >> 8 * i);
    }
    add_bytes(identity, was_bytes, is_bytes, length); // the last byte first
    reverse(was_bytes, length);
    reverse(is_bytes, length);
    add_bytes(identity, was_bytes, is_bytes, length);
}

// Without its last digit, which is a checksum, an IMEI says as much.
static void add_spellings(struct identity *identity) {
    size_t length = strlen(identity->was);
    size_t last = length - (is_number(identity->was) && length == IMEI_DIGITS ? 1 : 0);
    for (size_t digits = length; digits >= last; digits--) {
        char was[CODEC_IDENT_MAX + 1] = "", is[CODEC_IDENT_MAX + 1] = "";
        memcpy(was, identity->was, digits);
        memcpy(is, identity->is, digits);
        add_bytes(identity, was, is, digits);
        if (!is_number(was) || digits > 18)
            continue;
        add_halves(identity, was, is, digits);
        add_number(identity, strtoull(was, NULL, 10), strtoull(is, NULL, 10));
    }
}

struct spellings *spellings_new(void) {
    return must_have(calloc(1, sizeof(struct spellings)));
}

void spellings_free(struct spellings *spellings) {
    struct identity *identity, *next;
    HASH_CLEAR(hh, spellings->whole.by_bytes);
    HASH_CLEAR(hh, spellings->halves.by_bytes);
    HASH_ITER(hh, spellings->identities, identity, next) {
        HASH_DEL(spellings->identities, identity);
        free(identity);
    }
    free(spellings->whole_grams.all);
    free(spellings->half_grams.all);
    free(spellings);
}

const char *spellings_made_up(const struct spellings *spellings, const char *ident) {
    const struct identity *identity;
    HASH_FIND_STR(spellings->identities, ident, identity);
    return identity != NULL ? identity->is : NULL;
}

void spellings_add(struct spellings *spellings, const char *ident) {
    if (spellings_made_up(spellings, ident) != NULL)
        return;
    struct identity *identity = must_have(calloc(1, sizeof *identity));
    strcpy(identity->was, ident);
    make_up(ident, identity->is, HASH_COUNT(spellings->identities) + 1);
    add_spellings(identity);
    HASH_ADD_STR(spellings->identities, was, identity);
}

bool spellings_is_imei(const char *digits) {
    return is_number(digits) && strlen(digits) == IMEI_DIGITS && luhn(digits, IMEI_DIGITS) == 0;
}

// --- tables ---

static uint32_t load(const uint8_t *bytes, size_t length) {
    uint32_t value = 0;
    memcpy(&value, bytes, length < sizeof value ? length : sizeof value);
    return value;
}

// Idents of one maker begin alike, and numbers may end alike.
static size_t filter_place(const uint8_t *bytes, size_t length) {
    uint64_t first = load(bytes, length), last = length > 4 ? load(bytes + length - 4, 4) : 0;
    uint64_t mixed = first * 0x9E3779B97F4A7C15U + (last + length) * 0xC2B2AE3D27D4EB4FU;
    return (size_t)(mixed >> (64 - FILTER_BITS));
}

static void fill_table(struct table *table, struct spelling *spelling) {
    size_t place = filter_place(spelling->was, spelling->length);
    struct spelling *same;
    HASH_FIND(hh, table->by_bytes, spelling->was, spelling->length, same);
    if (same == NULL)
        HASH_ADD(hh, table->by_bytes, was, spelling->length, spelling);
    table->lengths[spelling->length] = true;
    table->filter[place / 8] |= (uint8_t)(1U << place % 8);
}

static const struct spelling *find_at(const struct table *table, const uint8_t *bytes, size_t length) {
    size_t place = filter_place(bytes, length);
    const struct spelling *spelling = NULL;
    if ((table->filter[place / 8] & 1U << place % 8) != 0)
        HASH_FIND(hh, table->by_bytes, bytes, length, spelling);
    return spelling;
}

static int compare_grams(const void *one, const void *other) {
    const struct gram *a = one, *b = other;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

static void add_grams(struct grams *grams, const struct spelling *spelling) {
    for (size_t at = 0; at + PIECE_MIN <= spelling->length; at++)
        grams->all[grams->count++] = (struct gram){load(spelling->was + at, PIECE_MIN), at, spelling};
}

static void sort_grams(struct grams *grams) {
    qsort(grams->all, grams->count, sizeof *grams->all, compare_grams);
}

void spellings_end(struct spellings *spellings) {
    struct identity *identity, *next;
    size_t bytes = 0;
    HASH_ITER(hh, spellings->identities, identity, next) {
        for (size_t i = 0; i < identity->count; i++)
            bytes += identity->spellings[i].length;
    }
    spellings->whole_grams.all = must_have(calloc(bytes + 1, sizeof(struct gram)));
    spellings->half_grams.all = must_have(calloc(bytes + 1, sizeof(struct gram)));
    HASH_ITER(hh, spellings->identities, identity, next) {
        for (size_t i = 0; i < identity->count; i++) {
            struct spelling *spelling = &identity->spellings[i];
            fill_table(spelling->in_halves ? &spellings->halves : &spellings->whole, spelling);
            add_grams(spelling->in_halves ? &spellings->half_grams : &spellings->whole_grams, spelling);
        }
    }
    sort_grams(&spellings->whole_grams);
    sort_grams(&spellings->half_grams);
}

// --- changing bytes ---

// The longest come last, so that whole idents win over what is without the last digit.
static void replace_found(const struct table *table, const uint8_t *was, uint8_t *is, size_t length) {
    for (size_t size = 1; size <= SPELLING_MAX && size <= length; size++) {
        for (size_t at = 0; table->lengths[size] && at + size <= length; at++) {
            const struct spelling *spelling = find_at(table, was + at, size);
            if (spelling != NULL)
                memcpy(is + at, spelling->is, size);
        }
    }
}

// The first of those with these bytes.
static const struct gram *find_grams(const struct grams *grams, const uint8_t *bytes) {
    uint32_t wanted = load(bytes, PIECE_MIN);
    size_t first = 0, end = grams->count;
    while (first < end) {
        size_t middle = first + (end - first) / 2;
        if (grams->all[middle].bytes < wanted)
            first = middle + 1;
        else
            end = middle;
    }
    return grams->all + first;
}

// What stands at the beginning: the end of a spelling.
static void replace_end(const struct grams *grams, const struct spellings_run *run) {
    const struct gram *gram = find_grams(grams, run->was), *best = NULL;
    const struct gram *end = grams->all + grams->count;
    size_t most = 0;
    for (; gram < end && gram->bytes == load(run->was, PIECE_MIN); gram++) {
        size_t cut = gram->spelling->length - gram->at;
        if (gram->at == 0 || cut <= most || cut > run->length ||
            memcmp(run->was, gram->spelling->was + gram->at, cut) != 0)
            continue;
        best = gram;
        most = cut;
    }
    if (best != NULL)
        memcpy(run->is, best->spelling->is + best->at, most);
}

// What stands at the end: the beginning of a spelling.
static void replace_beginning(const struct grams *grams, const struct spellings_run *run) {
    const uint8_t *last = run->was + run->length - PIECE_MIN;
    const struct gram *gram = find_grams(grams, last), *best = NULL;
    const struct gram *end = grams->all + grams->count;
    size_t most = 0;
    for (; gram < end && gram->bytes == load(last, PIECE_MIN); gram++) {
        size_t cut = gram->at + PIECE_MIN;
        if (cut == gram->spelling->length || cut <= most || cut > run->length ||
            memcmp(run->was + run->length - cut, gram->spelling->was, cut) != 0)
            continue;
        best = gram;
        most = cut;
    }
    if (best != NULL)
        memcpy(run->is + run->length - most, best->spelling->is, most);
}

// What is cut off at either end.
static void replace_pieces(const struct grams *grams, const struct spellings_run *run) {
    if (run->length < PIECE_MIN)
        return;
    replace_end(grams, run);
    replace_beginning(grams, run);
}

void spellings_halves(const uint8_t *bytes, size_t length, bool swapped, uint8_t *halves) {
    for (size_t i = 0; i < length; i++) {
        halves[2 * i + swapped] = bytes[i] >> 4;
        halves[2 * i + !swapped] = bytes[i] & 15;
    }
}

// An ident of an odd number of digits has a half beside it that may be anything, at either end.
static void replace_half_pieces(const struct grams *grams, const struct spellings_run *halves) {
    replace_pieces(grams, halves);
    if (halves->length > PIECE_MIN)
        replace_pieces(grams, &(struct spellings_run){halves->was + 1, halves->is + 1, halves->length - 2});
}

static void replace_halves(const struct spellings *spellings, const struct spellings_run *run, bool swapped) {
    struct spellings_run halves = {.was = must_have(malloc(2 * run->length + 1)),
                                   .is = must_have(malloc(2 * run->length + 1)),
                                   .length = 2 * run->length};
    spellings_halves(run->was, run->length, swapped, halves.was);
    spellings_halves(run->is, run->length, swapped, halves.is);
    replace_half_pieces(&spellings->half_grams, &halves);
    replace_found(&spellings->halves, halves.was, halves.is, halves.length);
    for (size_t i = 0; i < run->length; i++)
        run->is[i] = (uint8_t)(halves.is[2 * i + swapped] << 4 | halves.is[2 * i + !swapped]);
    free(halves.was);
    free(halves.is);
}

void spellings_replace(const struct spellings *spellings, const struct spellings_run *run) {
    replace_halves(spellings, run, false);
    replace_halves(spellings, run, true);
    replace_pieces(&spellings->whole_grams, run);
    replace_found(&spellings->whole, run->was, run->is, run->length);
}
