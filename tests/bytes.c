// Bytes as the tests make them; see bytes.h.
#include "tests/bytes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGICYO_TAIL 6 // checksum and end

uint8_t *bytes_unhex(const char *text, size_t *length) {
    uint8_t *bytes = malloc(strlen(text) / 2 + 1);
    unsigned value;
    int used;
    *length = 0;
    while (sscanf(text, " %2x%n", &value, &used) == 1) {
        bytes[(*length)++] = (uint8_t)value;
        text += used;
    }
    return bytes;
}

void bytes_hex(const void *bytes, size_t length, char *text) {
    *text = '\0';
    for (size_t i = 0; i < length; i++)
        sprintf(text + 2 * i, "%02x", ((const uint8_t *)bytes)[i]);
}

void bytes_put(uint8_t *at, uint32_t value, size_t width) {
    for (size_t i = 0; i < width; i++)
        at[i] = (uint8_t)(value >> 8 * (width - 1 - i));
}

uint32_t bytes_adler32(const uint8_t *bytes, size_t length) {
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < length; i++) {
        a += bytes[i];
        b += a;
        if (i % 1024 == 1023) { // the sums stay far below 2^32
            a %= 65521;
            b %= 65521;
        }
    }
    return (b % 65521) << 16 | a % 65521;
}

void bytes_magicyo_sign(uint8_t *frame, size_t length) {
    bytes_put(frame + length - MAGICYO_TAIL, bytes_adler32(frame + 2, length - 2 - MAGICYO_TAIL), 4);
}

size_t bytes_magicyo(uint8_t *frame, const char *imei, uint8_t type, unsigned id, const void *data,
                     size_t length) {
    size_t whole = MAGICYO_DATA_AT + length + MAGICYO_TAIL;
    bytes_put(frame, 0x5555, 2);
    bytes_put(frame + 2, (uint32_t)whole, 2);
    memcpy(frame + 4, imei, 15);
    frame[19] = type;
    bytes_put(frame + MAGICYO_ID_AT, id, 2);
    bytes_put(frame + 22, (uint32_t)length, 2);
    memcpy(frame + MAGICYO_DATA_AT, data, length);
    bytes_put(frame + whole - 2, 0xAAAA, 2);
    bytes_magicyo_sign(frame, whole);
    return whole;
}
