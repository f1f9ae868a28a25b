// Limits per source; see limiter.h.
#include "gateway/base/limiter.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

// SipHash-2-4 (Aumasson and Bernstein, 2012) with a key of this run: nobody can choose a source that shares the
// place of another.
struct sip {
    uint64_t a, b, c, d;
};

static uint64_t rotate(uint64_t value, unsigned bits) {
    return value << bits | value >> (64 - bits);
}

static void mix(struct sip *sip) {
    sip->a += sip->b;
    sip->b = rotate(sip->b, 13) ^ sip->a;
    sip->a = rotate(sip->a, 32);
    sip->c += sip->d;
    sip->d = rotate(sip->d, 16) ^ sip->c;
    sip->a += sip->d;
    sip->d = rotate(sip->d, 21) ^ sip->a;
    sip->c += sip->b;
    sip->b = rotate(sip->b, 17) ^ sip->c;
    sip->c = rotate(sip->c, 32);
}

static void take_word(struct sip *sip, uint64_t word) {
    sip->d ^= word;
    mix(sip);
    mix(sip);
    sip->a ^= word;
}

static uint64_t finish(struct sip *sip) {
    sip->c ^= 0xFF;
    for (int i = 0; i < 4; i++)
        mix(sip);
    return sip->a ^ sip->b ^ sip->c ^ sip->d;
}

uint64_t limiter_hash(const uint64_t key[2], const void *bytes, size_t length) {
    struct sip sip = {key[0] ^ 0x736f6d6570736575U, key[1] ^ 0x646f72616e646f6dU,
                      key[0] ^ 0x6c7967656e657261U, key[1] ^ 0x7465646279746573U};
    const unsigned char *next = bytes;
    for (size_t left = length; left >= 8; left -= 8, next += 8) {
        uint64_t word;
        memcpy(&word, next, 8);
        take_word(&sip, le64toh(word));
    }
    uint64_t last = (uint64_t)length << 56;
    for (size_t i = 0; i < length % 8; i++)
        last |= (uint64_t)next[i] << 8 * i;
    take_word(&sip, last);
    return finish(&sip);
}

static size_t place_of(struct limiter *limiter, const void *source, size_t length) {
    while (limiter->key[0] == 0)
        if (getrandom(limiter->key, sizeof limiter->key, 0) != sizeof limiter->key)
            limiter->key[0] = 0;
    return (size_t)(limiter_hash(limiter->key, source, length) % LIMITER_PLACES);
}

static struct limiter_place *find_place(struct limiter *limiter, uint64_t now, const void *source,
                                        size_t length) {
    struct limiter_place *place = &limiter->places[place_of(limiter, source, length)];
    if (place->second != now / 1000) {
        place->second = now / 1000;
        place->count = 0;
    }
    return place;
}

bool limiter_is_spent(struct limiter *limiter, uint64_t now, const void *source, size_t length) {
    return find_place(limiter, now, source, length)->count >= limiter->per_second;
}

bool limiter_has_counted(struct limiter *limiter, uint64_t now, const void *source, size_t length) {
    return find_place(limiter, now, source, length)->count > 0;
}

void limiter_charge(struct limiter *limiter, uint64_t now, const void *source, size_t length,
                    unsigned times) {
    find_place(limiter, now, source, length)->count += times;
}

bool limiter_allows(struct limiter *limiter, uint64_t now, const void *source, size_t length,
                    unsigned *suppressed) {
    struct limiter_place *place = find_place(limiter, now, source, length);
    if (place->count >= limiter->per_second) {
        place->suppressed++;
        return false;
    }
    place->count++;
    if (suppressed != NULL) {
        *suppressed = place->suppressed;
        place->suppressed = 0;
    }
    return true;
}

char *limiter_note(unsigned suppressed, char *note) {
    note[0] = '\0';
    if (suppressed > 0)
        snprintf(note, LIMITER_NOTE_MAX, " (and %u more like it before)", suppressed);
    return note;
}
