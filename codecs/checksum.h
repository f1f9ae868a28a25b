// The checksums that trackers use.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A CRC of 16 bits, by the parameters under which catalogues list it.
struct crc16 {
    uint16_t polynomial; // as written in catalogues, the highest bit first
    uint16_t start;
    uint16_t last;  // XORed to the result
    bool reflected; // bits come in and go out lowest first
};

extern const struct crc16 crc16_arc;    // also CRC-16/IBM: Teltonika
extern const struct crc16 crc16_x25;    // also CRC-ITU: GT06
extern const struct crc16 crc16_ccitt;  // CCITT-FALSE: start FFFF
extern const struct crc16 crc16_xmodem; // the same polynomial, start 0
extern const struct crc16 crc16_modbus;

uint16_t checksum_crc16(const struct crc16 *kind, const uint8_t *bytes, size_t length);
uint32_t checksum_adler32(const uint8_t *bytes, size_t length);
uint8_t checksum_sum8(const uint8_t *bytes, size_t length); // all bytes added, modulo 256
uint8_t checksum_xor8(const uint8_t *bytes, size_t length);
