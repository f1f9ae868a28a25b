// The checksums that trackers use; see checksum.h.
#include "codecs/checksum.h"

#define ADLER_PRIME 65521
#define ADLER_RUN   5552 // so many bytes can be added before the sums overflow 32 bits

const struct crc16 crc16_arc = {.polynomial = 0x8005, .reflected = true};
const struct crc16 crc16_x25 = {.polynomial = 0x1021, .start = 0xFFFF, .last = 0xFFFF, .reflected = true};
const struct crc16 crc16_ccitt = {.polynomial = 0x1021, .start = 0xFFFF};
const struct crc16 crc16_xmodem = {.polynomial = 0x1021};
const struct crc16 crc16_modbus = {.polynomial = 0x8005, .start = 0xFFFF, .reflected = true};

static unsigned reversed(unsigned value, unsigned bits) {
    unsigned result = 0;
    for (unsigned i = 0; i < bits; i++)
        result |= (value >> i & 1) << (bits - 1 - i);
    return result;
}

uint16_t checksum_crc16(const struct crc16 *kind, const uint8_t *bytes, size_t length) {
    unsigned crc = kind->start;
    for (size_t i = 0; i < length; i++) {
        crc ^= (kind->reflected ? reversed(bytes[i], 8) : bytes[i]) << 8;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc & 0x8000 ? crc << 1 ^ kind->polynomial : crc << 1) & 0xFFFF;
    }
    return (uint16_t)((kind->reflected ? reversed(crc, 16) : crc) ^ kind->last);
}

uint32_t checksum_adler32(const uint8_t *bytes, size_t length) {
    uint32_t low = 1, high = 0;
    while (length > 0) {
        size_t run = length < ADLER_RUN ? length : ADLER_RUN;
        for (size_t i = 0; i < run; i++) {
            low += bytes[i];
            high += low;
        }
        low %= ADLER_PRIME;
        high %= ADLER_PRIME;
        bytes += run;
        length -= run;
    }
    return high << 16 | low;
}

uint8_t checksum_sum8(const uint8_t *bytes, size_t length) {
    unsigned sum = 0;
    for (size_t i = 0; i < length; i++)
        sum += bytes[i];
    return (uint8_t)sum;
}

uint8_t checksum_xor8(const uint8_t *bytes, size_t length) {
    unsigned sum = 0;
    for (size_t i = 0; i < length; i++)
        sum ^= bytes[i];
    return (uint8_t)sum;
}
