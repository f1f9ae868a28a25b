// Protocols that are no tracker's, by how they begin: what knocks at open ports.
#pragma once

#include <stddef.h>
#include <stdint.h>

// "HTTP", "TLS", "SSH", or NULL for bytes that begin like none of them.
const char *foreign_protocol(const uint8_t *bytes, size_t length);
