// Signatures of entries: whoever may write entries in the broker is not yet a gateway.
//
// A signature is the HMAC-SHA256, in 64 hexadecimal digits, of the topic's key and the entry. Signed is the entry as
// canonical JSON (sorted keys, compact, times with 16 digits) without its signature: what a gateway publishes is what
// another one makes of the JSON that it has parsed, so a broker or bridge that writes the JSON anew does no harm.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

// What all gateways on a broker share, and nobody else knows; the bytes stay the caller's.
struct command_secret {
    const char *bytes;
    size_t length;
};

// Signs the entry of the device that is called key (see command_key()); an earlier signature is replaced.
void command_signature_set(json_t *entry, const char *key, const struct command_secret *secret);

// NULL when the entry was signed with that secret for that key, else a constant that says what is wrong.
const char *command_signature_fault(const json_t *entry, const char *key,
                                    const struct command_secret *secret);
