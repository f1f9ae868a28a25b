// Bytes as the tests make them: hexadecimal text, numbers, and frames of Magicyo with their checksum. None of
// it uses the code under test, so that a fault there cannot hide itself.
#pragma once

#include <stddef.h>
#include <stdint.h>

// Reads hexadecimal text up to the first character that is neither a digit nor white space. The bytes are for
// the caller to free.
uint8_t *bytes_unhex(const char *text, size_t *length);

// Writes length bytes as hexadecimal digits in lower case, and a NUL; text has room for 2 * length + 1.
void bytes_hex(const void *bytes, size_t length, char *text);

// Writes the lowest width bytes of value, the highest first.
void bytes_put(uint8_t *at, uint32_t value, size_t width);

uint32_t bytes_adler32(const uint8_t *bytes, size_t length);

#define MAGICYO_FRAME_MAX 1024
#define MAGICYO_ID_AT     20 // where the frame's number stands, two bytes
#define MAGICYO_DATA_AT   24

// Writes a whole frame of Magicyo around the data and returns its length, which is 30 more than the data's.
// imei has 15 digits, id is 0 to 65535.
size_t bytes_magicyo(uint8_t *frame, const char *imei, uint8_t type, unsigned id, const void *data,
                     size_t length);

// Renews the checksum of a frame that was changed; length is that of the whole frame, without padding.
void bytes_magicyo_sign(uint8_t *frame, size_t length);
